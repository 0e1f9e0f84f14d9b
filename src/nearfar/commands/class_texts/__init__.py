"""The commands on texts of classes: which to take for a classifier, and which fit a picture."""
