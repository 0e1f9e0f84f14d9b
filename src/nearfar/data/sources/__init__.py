"""Sources: from files, tables, shards, a hub or memory to records, one kind a file."""
