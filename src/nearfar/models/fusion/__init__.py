"""Fusion models: image and text tokens read together, and what is built on that."""
