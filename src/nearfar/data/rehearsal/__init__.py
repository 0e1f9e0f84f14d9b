"""Classes that come one after the other: tasks, the memory that is rehearsed, and batches of both."""
