"""Learned prompts: vectors that stand around a class name in the place of words, and what carries them."""
