"""Claims of papers on images alone, re-run."""
