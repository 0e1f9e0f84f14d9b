"""What reproductions share: the harness, their data, their tables."""
