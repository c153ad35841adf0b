"""Preparation: raw downloads and procedural scenes are written in the processed layout."""
