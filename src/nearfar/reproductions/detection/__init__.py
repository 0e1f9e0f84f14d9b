"""Claims of papers on detection, re-run."""
