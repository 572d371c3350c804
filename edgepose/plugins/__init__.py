"""The dynamic depthwise convolution for PyTorch, ONNX and TensorRT."""
