"""Trainings of several stages: folders, what was finished, columns that one stage computes for the next."""
