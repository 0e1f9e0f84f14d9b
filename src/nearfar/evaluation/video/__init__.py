"""What is measured on videos alone."""
