"""The name and version of the dynamic depthwise convolution in ONNX and TensorRT."""

DOMAIN = "edgepose"
OP_TYPE = "DynamicDepthwiseConv2d"
QUALIFIED_NAME = f"{DOMAIN}::{OP_TYPE}"
VERSION = 1
