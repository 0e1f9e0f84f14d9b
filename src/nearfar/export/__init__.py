"""A model for others: as ONNX files that run without torch, as a folder of sentence-transformers, for torchvision."""
