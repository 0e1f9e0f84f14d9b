"""Texts for single pictures: of the descriptions of its class those that fit it best (GIST)."""
