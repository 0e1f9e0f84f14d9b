"""Claims of papers on text alone, re-run."""
