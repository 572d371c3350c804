"""Quantise ONNX graphs, convert them to 16 bit, and read their inner tensors."""
