"""Parts of methods that learn from a frozen image-text model: its embeddings of pictures, and of class names."""
