"""Methods that learn from images with texts."""
