"""Methods for pictures alone, one file a paper."""
