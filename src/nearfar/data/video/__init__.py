"""Videos: which frames are taken, how they are read, and what they become in a batch."""
