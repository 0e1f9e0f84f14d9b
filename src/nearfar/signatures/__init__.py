"""What functions say of themselves: the kinds of their arguments, their docstrings, and flags made of both."""
