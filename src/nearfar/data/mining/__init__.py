"""Mining: harder or cleaner data out of the data there is."""
