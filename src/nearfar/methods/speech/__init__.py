"""Methods that learn speech."""
