"""Point clouds from outside: file formats, axes and units."""
