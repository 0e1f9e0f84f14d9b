"""Methods that learn where things are, and what they are called."""
