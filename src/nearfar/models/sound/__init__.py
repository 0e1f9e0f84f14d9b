"""Models of sounds: a tower over log-mel features, and sounds and texts in one space."""
