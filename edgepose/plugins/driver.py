"""Launching the kernels in the calling thread's CUDA context, each compiled once by NVRTC for the GPU that is there."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from .launch import THREADS, Launch
from .nvrtc import compile_kernel


def run(plan: Launch[int], first: int, second: int, result: int, stream: int) -> None:
    """Enqueue a launch; allocates nothing once the kernel is loaded, and does not wait.

    Args:
        plan: from :mod:`edgepose.plugins.launch`.
        first, second, result: device addresses of the inputs and the output.
        stream: handle of a CUDA stream of the current context.

    Raises:
        UsageError: NVRTC is missing or cannot compile for this GPU.
        RuntimeError: CUDA refused, with its reason.
    """
    from cuda.bindings import driver

    (context,) = _check(driver, driver.cuCtxGetCurrent())
    function = _load(plan.kernel, int(context))
    values = (first, second, *plan.arguments, result)
    kinds = (ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int for _ in plan.arguments), ctypes.c_void_p)
    _check(driver, driver.cuLaunchKernel(function, plan.grid, 1, 1, THREADS, 1, 1, 0, stream, (values, kinds), 0))


@lru_cache(maxsize=256)
def _load(kernel: str, context: int) -> Any:  # noqa: ARG001  a kernel is loaded once in each context
    """The kernel's function in the current context, where its module stays loaded."""
    from cuda.bindings import driver

    code, name = compile_kernel(kernel, f"sm_{current_sm()}")
    (module,) = _check(driver, driver.cuModuleLoadData(code))
    (function,) = _check(driver, driver.cuModuleGetFunction(module, name))
    return function


def current_sm() -> int:
    """The SM of the current context's GPU, such as 87."""
    from cuda.bindings import driver

    (device,) = _check(driver, driver.cuCtxGetDevice())
    kinds = driver.CUdevice_attribute
    major, minor = (
        _check(driver, driver.cuDeviceGetAttribute(kind, device))[0]
        for kind in (
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return 10 * int(major) + int(minor)


def _check(driver: Any, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take the error off a result of cuda-python, which puts it first."""
    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(error)
        raise RuntimeError(f"CUDA reported for the dynamic convolution: {text.decode()}")
    return tuple(values)
