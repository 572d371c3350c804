"""Launch the kernels on CUDA tensors, on PyTorch's current stream."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nvidia.launch import Launch, run
from . import launch


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Return y = x (*) kernels, (N, C, H, W), from CUDA tensors whose shapes :mod:`.torch_op` has checked."""
    x, kernels = x.contiguous(), kernels.contiguous()
    y = torch.empty_like(x)
    n, c, height, width = x.shape
    if y.numel():
        aligned = (x.data_ptr() | y.data_ptr()) % 16 == 0
        kernel = (kernels.shape[2], kernels.shape[3])
        _run(launch.forward(n * c, height, width, kernel, _dtype(x), aligned=aligned), x, kernels, y)
    return y


def correlate(x: Tensor, dy: Tensor, shape: torch.Size) -> Tensor:
    """Return the kernels' gradient, of ``shape`` (N, C, kh, kw), from x and y's gradient ``dy``, both (N, C, H, W)."""
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
