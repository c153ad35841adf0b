"""Pictures and pages of scene flow."""
