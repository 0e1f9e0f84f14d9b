"""Claims of papers on videos, re-run."""
