"""The commands that write texts of pictures, or look for them there."""
