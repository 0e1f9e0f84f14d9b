"""What reproductions train and test: models made small, and data read once by frozen towers."""
