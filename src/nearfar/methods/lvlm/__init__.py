"""Methods that train a model to write of pictures, or to read them as a language model does."""
