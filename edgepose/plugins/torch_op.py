"""The PyTorch operator ``torch.ops.edgepose.dynamic_depthwise_conv2d``, which exports as a single ONNX node.

On a CPU it computes one grouped convolution with the batch folded into the groups, on CUDA the project's own kernel,
which is compiled at its first use. Both are differentiable in both inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nvidia.launch import Launch, run
from . import launch
from .spec import QUALIFIED_NAME, VERSION


def dynamic_depthwise_conv2d(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve every channel of every sample with its own kernel; stride 1, zero padding k // 2.

    Autocast casts both inputs, as those of a convolution. ONNX export emits one ``edgepose::DynamicDepthwiseConv2d``
    node, because a grouped convolution would fix the batch size.

    Args:
        x: (N, C, H, W), float32, float16 or bfloat16 (on a CPU also float64); N may be 0.
        kernels: (N, C, kh, kw), kh and kw odd and at most 11, same dtype and device as ``x``.

    Returns:
        (N, C, H, W), same dtype as the inputs.

    Raises:
        ValueError: the shapes do not fit, a kernel side is even or too large, or the dtypes differ.
    """
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, kernels = x.to(dtype), kernels.to(dtype)
    _check(x, kernels)
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(QUALIFIED_NAME, (x, kernels), dtype=x.dtype, shape=x.shape, version=VERSION)
    return _forward(x, kernels)


class DynamicDepthwiseConv2d(nn.Module):
    """:func:`dynamic_depthwise_conv2d` as a module without parameters: hooks and graphs refer to modules by name."""

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        return dynamic_depthwise_conv2d(x, kernels)


def _check(x: Tensor, kernels: Tensor) -> None:
    sides = kernels.shape[-2:]
    if x.ndim != 4 or kernels.ndim != 4 or kernels.shape[:2] != x.shape[:2] or any(side % 2 == 0 for side in sides):
        raise ValueError(
            f"dynamic_depthwise_conv2d: x {tuple(x.shape)} needs kernels (N, C, kh, kw) with the same N and C and "
            f"odd kh and kw, got {tuple(kernels.shape)}"
        )
    if max(sides) > launch.LARGEST_KERNEL:
        raise ValueError(
            f"dynamic_depthwise_conv2d: kh and kw go up to {launch.LARGEST_KERNEL}, got {tuple(kernels.shape)}"
        )
    if x.dtype != kernels.dtype:
        raise ValueError(f"dynamic_depthwise_conv2d: x is {x.dtype}, kernels are {kernels.dtype}: expected one dtype")


@torch.library.custom_op("edgepose::dynamic_depthwise_conv2d", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, kernels: Tensor) -> Tensor:
    n, c, height, width = x.shape
    if n == 0:
        return torch.empty_like(x)
    groups, padding = n * c, _padding(kernels)
    folded = x.reshape(1, groups, height, width), kernels.reshape(groups, 1, *kernels.shape[2:])
    return F.conv2d(*folded, padding=padding, groups=groups).reshape(x.shape)


def _convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Compute :func:`dynamic_depthwise_conv2d` with the project's kernel, on PyTorch's current stream."""
    x, kernels = x.contiguous(), kernels.contiguous()
    y = torch.empty_like(x)
    n, c, height, width = x.shape
    if y.numel():
        aligned = (x.data_ptr() | y.data_ptr()) % 16 == 0
        kernel = (kernels.shape[2], kernels.shape[3])
        _run(launch.forward(n * c, height, width, kernel, _dtype(x), aligned=aligned), x, kernels, y)
    return y


def _correlate(x: Tensor, dy: Tensor, shape: torch.Size) -> Tensor:
    """Compute the kernels' gradient, of ``shape`` (N, C, kh, kw), from x and y's gradient ``dy``, both (N, C, H, W)."""
    x, dy = x.contiguous(), dy.contiguous()
    gradient = torch.zeros(shape, dtype=x.dtype, device=x.device)
    n, c, height, width = x.shape
    if x.numel():
        _run(launch.kernel_gradient(n * c, height, width, (shape[2], shape[3]), _dtype(x)), x, dy, gradient)
    return gradient


def _dtype(x: Tensor) -> str:
    name = str(x.dtype).removeprefix("torch.")
    if name not in launch.TYPES:
        raise ValueError(f"dynamic_depthwise_conv2d: on CUDA x must be one of {', '.join(launch.TYPES)}, got {name}")
    return name


def _run(plan: Launch[int], first: Tensor, second: Tensor, result: Tensor) -> None:
    with torch.cuda.device(first.device):
        stream = torch.cuda.current_stream().cuda_stream
        run(plan, first.data_ptr(), second.data_ptr(), result.data_ptr(), stream)


_forward.register_kernel("cuda", _convolve)


@_forward.register_fake
def _(x: Tensor, kernels: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.custom_op("edgepose::dynamic_depthwise_conv2d_backward", mutates_args=(), device_types="cpu")
def _backward(dy: Tensor, x: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    n, c, height, width = x.shape
    if n == 0:
        return torch.empty_like(x), torch.empty_like(kernels)
    groups = n * c
    planes = (1, groups, height, width)
    dx, dk, _ = torch.ops.aten.convolution_backward(
        dy.reshape(planes),
        x.reshape(planes),
        kernels.reshape(groups, 1, *kernels.shape[2:]),
        bias_sizes=None,
        stride=[1, 1],
        padding=_padding(kernels),
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=groups,
        output_mask=[True, True, False],
    )
    return dx.reshape(x.shape), dk.reshape(kernels.shape)


@_backward.register_kernel("cuda")
def _(dy: Tensor, x: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    # The gradient of x is a convolution, too, with the kernels rotated by 180 degrees.
    return _convolve(dy, kernels.flip(2, 3)), _correlate(x, dy, kernels.shape)


@_backward.register_fake
def _(dy: Tensor, x: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, kernels))  # type: ignore[return-value]


def _padding(kernels: Tensor) -> list[int]:
    return [side // 2 for side in kernels.shape[2:]]


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


_forward.register_autograd(lambda ctx, dy: _backward(dy, *ctx.saved_tensors), setup_context=_keep)
