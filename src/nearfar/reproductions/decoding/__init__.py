"""Claims of papers on decoding, re-run."""
