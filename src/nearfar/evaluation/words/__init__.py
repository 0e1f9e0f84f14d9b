"""Vectors of words against what people say of the words: ratings, norms, categories, similarities."""
