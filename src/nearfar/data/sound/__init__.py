"""Sounds: how files are read and resampled, log-mel features of them, and what they become in a batch."""
