"""Embedding in blocks: a source is cut into stretches of records, each is embedded and written by itself, and what is
written stays. One process does them one after the other, or workers of a Ray cluster do, with the same result."""
