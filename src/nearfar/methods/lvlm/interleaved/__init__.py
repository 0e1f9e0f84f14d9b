"""Methods on texts with pictures in them."""
