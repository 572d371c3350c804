"""Find and describe the GPU through CUDA's runtime API (``cuda-python``).

The runtime API uses a device's primary context, as TensorRT, torch and CuPy do. edgepose runs on the first visible GPU;
``CUDA_VISIBLE_DEVICES`` chooses another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Number of the GPU that edgepose runs on, among the visible ones.
DEVICE = 0


class CudaError(RuntimeError):
    """A failed CUDA call; the message holds CUDA's name for the error."""


@dataclass(frozen=True)
class DeviceInfo:
    """A GPU: its name, its SM such as ``sm86``, and its memory in bytes."""

    name: str
    sm: str
    memory: int


def sm_number(sm: str) -> int:
    """Return the number of an SM (a GPU's compute capability).

    >>> sm_number("sm86")
    86
    """
    return int(sm.removeprefix("sm"))


def gpu_missing() -> str | None:
    """Return why no CUDA GPU can be used, in one sentence, or None if one can."""
    try:
        cudart = import_cudart()
    except ImportError:
        return "the Python module 'cuda.bindings' is needed to use a GPU and is not installed: pip install cuda-python"
    return _why_unusable(cudart)


def device_info() -> DeviceInfo:
    """Describe the GPU that edgepose runs on; without a usable one (see :func:`gpu_missing`) raise CudaError."""
    cudart = import_cudart()
    (properties,) = check(cudart, cudart.cudaGetDeviceProperties(DEVICE))
    name = properties.name.decode().rstrip("\0")
    return DeviceInfo(name, f"sm{properties.major}{properties.minor}", properties.totalGlobalMem)


def import_cudart() -> Any:
    """Return the module ``cuda.bindings.runtime``; raise ImportError if cuda-python is not installed."""
    from cuda.bindings import runtime

    return runtime


def _why_unusable(cudart: Any) -> str | None:
    """Return why no GPU can be used; compares versions, as CUDA has one error for a missing and for an old driver."""
    (driver,) = check(cudart, cudart.cudaDriverGetVersion())
    (bindings,) = check(cudart, cudart.cudaRuntimeGetVersion())
    if driver == 0:
        return "there is no NVIDIA driver: install the driver of your GPU (on Jetson it is part of JetPack)"
    if driver // 1000 < bindings // 1000:
        return (
            f"the NVIDIA driver supports CUDA {_dotted(driver)}, the installed cuda-python needs {_dotted(bindings)}: "
            f"pip install 'cuda-python<{bindings // 1000}', or a newer driver"
        )
    error, count = cudart.cudaGetDeviceCount()
    if error != cudart.cudaError_t.cudaSuccess or count == 0:
        return f"the NVIDIA driver finds no GPU ({_error_name(cudart, error)}): see nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None


def check(cudart: Any, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of a cuda-python result; raise CudaError if its first element is an error."""
    error, *values = result
    if error != cudart.cudaError_t.cudaSuccess:
        (_, text) = cudart.cudaGetErrorString(error)
        raise CudaError(f"CUDA reported {_error_name(cudart, error)}: {text.decode()}")
    return tuple(values)


def _error_name(cudart: Any, error: Any) -> str:
    (_, name) = cudart.cudaGetErrorName(error)
    return str(name.decode())


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
