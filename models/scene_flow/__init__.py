"""Networks for scene flow."""
