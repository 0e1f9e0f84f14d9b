"""The kinds of index: how the nearest vectors are found, and when it is certain that they were."""
