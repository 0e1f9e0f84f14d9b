"""The commands that write texts of pictures."""
