"""Things that a model says of a picture and that are not there: POPE, CHAIR and MME."""
