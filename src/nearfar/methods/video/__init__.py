"""Methods that learn from videos."""
