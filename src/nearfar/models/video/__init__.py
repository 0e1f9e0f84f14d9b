"""Models of videos: frames through an image tower, and what joins them."""
