"""Vision-language models: a causal language model that reads a picture before its words."""
