"""Claims of papers on images and texts, re-run."""
