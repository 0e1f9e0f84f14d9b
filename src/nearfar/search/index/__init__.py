"""The index: what it stores, how it is built, opened and searched."""
