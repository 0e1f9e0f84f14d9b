"""Learning prompts of class names around a frozen image-text model, and what keeps them good for other names."""
