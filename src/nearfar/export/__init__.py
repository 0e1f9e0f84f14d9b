"""A model for others: as ONNX files that run without torch, or as a folder that sentence-transformers opens."""
