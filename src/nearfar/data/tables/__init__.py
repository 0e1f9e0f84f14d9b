"""Tables as sources: files of rows, what their columns mean, and their cells."""
