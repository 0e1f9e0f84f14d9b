"""Models that other libraries have, too, in folders that those libraries open: the same weights under their names."""
