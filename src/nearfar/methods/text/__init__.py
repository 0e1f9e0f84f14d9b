"""Methods that train on text alone."""
