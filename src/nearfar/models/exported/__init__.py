"""Models that were exported as ONNX files, opened again: they embed by onnxruntime, and need no transformers."""
