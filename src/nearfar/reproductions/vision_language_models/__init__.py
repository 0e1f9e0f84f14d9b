"""Reproductions of papers on vision-language models."""
