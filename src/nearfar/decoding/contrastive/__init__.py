"""Contrastive search (arXiv 2210.14140), part by part."""
