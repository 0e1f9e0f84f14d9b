"""Measures of generated text and of hidden states."""
