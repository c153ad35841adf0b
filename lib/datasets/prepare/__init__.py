"""From raw downloads and procedural scenes to the processed layout."""
