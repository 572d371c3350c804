"""Launch CUDA kernels in the calling thread's context; NVRTC compiles each one at its first launch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from .compile import compile_kernel
from .device import check, import_cudart

#: An integer, or TensorRT's symbol for one.
Int = TypeVar("Int")


@dataclass(frozen=True)
class Launch(Generic[Int]):
    """One kernel launch.

    Attributes:
        source: the CUDA file that holds the kernel.
        kernel: C++ expression that names the kernel.
        grid: number of blocks.
        threads: threads per block.
        arguments: int32 values, passed to the kernel after the two input addresses and before the output address.
    """

    source: Path
    kernel: str
    grid: Int
    threads: int
    arguments: tuple[Int | int, ...]


def run(plan: Launch[int], first: int, second: int, result: int, stream: int) -> None:
    """Enqueue a launch without waiting for it; allocates nothing after the kernel's first launch.

    Args:
        plan: from :mod:`edgepose.plugins.launch`.
        first, second, result: device addresses of the inputs and the output.
        stream: handle of a CUDA stream of the current context.

    Raises:
        UsageError: NVRTC is missing or cannot compile for this GPU.
        RuntimeError: CUDA reports an error.
    """
    from cuda.bindings import driver

    function = _load(plan.source, plan.kernel, _current_context())
    values = (first, second, *plan.arguments, result)
    kinds = (ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int for _ in plan.arguments), ctypes.c_void_p)
    _check(driver, driver.cuLaunchKernel(function, plan.grid, 1, 1, plan.threads, 1, 1, 0, stream, (values, kinds), 0))


def _current_context() -> int:
    """Return the calling thread's CUDA context, and give a thread that has none yet the one of its device.

    PyTorch believes that a new thread already uses the first GPU, and makes no context current for it.
    """
    from cuda.bindings import driver

    (context,) = _check(driver, driver.cuCtxGetCurrent())
    if not int(context):
        cudart = import_cudart()
        check(cudart, cudart.cudaSetDevice(*check(cudart, cudart.cudaGetDevice())))
        (context,) = _check(driver, driver.cuCtxGetCurrent())
    return int(context)


@lru_cache(maxsize=256)
def _load(source: Path, kernel: str, context: int) -> Any:  # noqa: ARG001  part of the cache's key
    """Load a kernel into the current context, where it stays, and return its function."""
    from cuda.bindings import driver

    code, name = compile_kernel(source, kernel, f"sm_{current_sm()}")
    (module,) = _check(driver, driver.cuModuleLoadData(code))
    (function,) = _check(driver, driver.cuModuleGetFunction(module, name))
    return function


def current_sm() -> int:
    """Return the SM number of the current context's GPU, such as 87."""
    from cuda.bindings import driver

    (device,) = _check(driver, driver.cuCtxGetDevice())
    kinds = driver.CUdevice_attribute
    parts = (kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
    major, minor = (_check(driver, driver.cuDeviceGetAttribute(part, device))[0] for part in parts)
    return 10 * int(major) + int(minor)


def _check(driver: Any, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of a cuda-python result; raise RuntimeError if its first element is an error."""
    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(error)
        raise RuntimeError(f"CUDA reported for the dynamic convolution: {text.decode()}")
    return tuple(values)
