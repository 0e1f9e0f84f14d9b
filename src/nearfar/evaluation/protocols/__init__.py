"""Protocols, one a file."""
