"""Pictures: reading one, its views and their exact geometry, and the fields of pictures and masks."""
