"""The search page and the server behind it."""
