"""Texts that stand for pictures: what is in a picture, written down once, as data and as a text to search (LexiCLIP,
arXiv 2509.19203)."""
