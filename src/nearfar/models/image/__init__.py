"""Models that read pictures and nothing else."""
