"""Queries: by text, by picture, by both, and by labels."""
