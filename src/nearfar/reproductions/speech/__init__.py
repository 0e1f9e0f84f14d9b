"""Claims of papers on speech, re-run."""
