"""Fields: what a record's texts, answers or numbers become in a batch, one kind a file; `usual` adds the pictures."""
