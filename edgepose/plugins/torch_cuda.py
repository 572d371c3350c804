"""The kernels on CUDA tensors: compiled by NVRTC for the GPU that is there, launched on PyTorch's current stream."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import launch
from .launch import THREADS, TYPES, Launch
from .nvrtc import compile_kernel


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """y = x (*) kernels, (N, C, H, W), from CUDA tensors of shapes that fit; see :mod:`edgepose.plugins.torch_op`."""
    x, kernels = x.contiguous(), kernels.contiguous()
    y = torch.empty_like(x)
    n, c, height, width = x.shape
    if y.numel():
        aligned = (x.data_ptr() | y.data_ptr()) % 16 == 0
        kernel = (kernels.shape[2], kernels.shape[3])
        _run(launch.forward(n * c, height, width, kernel, _dtype(x), aligned=aligned), x, kernels, y)
    return y


def correlate(x: Tensor, dy: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of the kernels, of ``shape`` (N, C, kh, kw), from x and the gradient of y, both (N, C, H, W)."""
    x, dy = x.contiguous(), dy.contiguous()
    gradient = torch.zeros(shape, dtype=x.dtype, device=x.device)
    n, c, height, width = x.shape
    if x.numel():
        _run(launch.kernel_gradient(n * c, height, width, (shape[2], shape[3]), _dtype(x)), x, dy, gradient)
    return gradient


def _dtype(x: Tensor) -> str:
    name = str(x.dtype).removeprefix("torch.")
    if name not in TYPES:
        raise ValueError(f"dynamic_depthwise_conv2d: on CUDA x must be one of {', '.join(TYPES)}, got {name}")
    return name


def _run(plan: Launch[int], first: Tensor, second: Tensor, result: Tensor) -> None:
    from cuda.bindings import driver

    values = (first.data_ptr(), second.data_ptr(), *plan.arguments, result.data_ptr())
    kinds = (ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int for _ in plan.arguments), ctypes.c_void_p)
    with torch.cuda.device(first.device):
        function = _load(plan.kernel, first.device.index)
        stream = torch.cuda.current_stream().cuda_stream
        _check(driver, driver.cuLaunchKernel(function, plan.grid, 1, 1, THREADS, 1, 1, 0, stream, (values, kinds), 0))


@lru_cache(maxsize=256)
def _load(kernel: str, device: int) -> Any:
    """The kernel's function in the primary context of a GPU; its module stays loaded."""
    from cuda.bindings import driver

    major, minor = torch.cuda.get_device_capability(device)
    code, name = compile_kernel(kernel, f"sm_{major}{minor}")
    (module,) = _check(driver, driver.cuModuleLoadData(code))
    (function,) = _check(driver, driver.cuModuleGetFunction(module, name))
    return function


def _check(driver: Any, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take the error off a result of cuda-python, which puts it first."""
    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(error)
        raise RuntimeError(f"dynamic_depthwise_conv2d: CUDA reported {text.decode()}")
    return tuple(values)
