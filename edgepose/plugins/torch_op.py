"""The dynamic depthwise convolution in PyTorch, and the single graph node it becomes on export."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .spec import QUALIFIED_NAME, VERSION


def dynamic_depthwise_conv2d(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve every channel of every sample with its own kernel; stride 1, zero padding k // 2.

    In eager mode the batch is folded into the groups of one convolution, which is differentiable in both inputs. That
    form would freeze the batch in an exported graph, so an export emits one ``edgepose::DynamicDepthwiseConv2d`` node.

    Args:
        x: (N, C, H, W).
        kernels: (N, C, kh, kw), kh and kw odd, same dtype and device as ``x``.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the shapes do not fit or a kernel side is even.
    """
    kh, kw = kernels.shape[-2:]
    if kernels.shape[:2] != x.shape[:2] or kh % 2 == 0 or kw % 2 == 0:
        raise ValueError(
            f"dynamic_depthwise_conv2d: x {tuple(x.shape)} needs kernels (N, C, kh, kw) with the same N and C and "
            f"odd kh and kw, got {tuple(kernels.shape)}"
        )
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(QUALIFIED_NAME, (x, kernels), dtype=x.dtype, shape=x.shape, version=VERSION)
    n, c, height, width = x.shape
    y = F.conv2d(
        x.reshape(1, n * c, height, width),
        kernels.reshape(n * c, 1, kh, kw),
        padding=(kh // 2, kw // 2),
        groups=n * c,
    )
    return y.reshape(n, c, height, width)


class DynamicDepthwiseConv2d(nn.Module):
    """:func:`dynamic_depthwise_conv2d` as a module without parameters, so that hooks and graphs can name it."""

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        return dynamic_depthwise_conv2d(x, kernels)
