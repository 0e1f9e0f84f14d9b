"""Detectors that find what texts name: windowed transformers, pyramids, heads over regions."""
