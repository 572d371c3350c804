"""Access to NVIDIA GPUs: devices, streams, kernels, and the TensorRT modules."""
