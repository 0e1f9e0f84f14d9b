"""Batches: the order of the records, and the loader that makes batches of them."""
