"""Pure functions on media files. Those that need Pillow say so on import where it is missing."""
