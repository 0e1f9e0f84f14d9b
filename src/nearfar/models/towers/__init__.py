"""Towers: one backbone for one modality, behind one shape."""
