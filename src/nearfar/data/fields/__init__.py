"""Fields: what a record's picture, text or answers become in a batch, one kind a file."""
