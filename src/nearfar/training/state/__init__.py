"""The state of a run: checkpoints, random streams, models split over processes."""
