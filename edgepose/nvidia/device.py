"""Ask CUDA, through ``cuda-python``, whether there is a GPU and which.

CUDA's runtime API works in the primary context of a device, the one that TensorRT, torch and CuPy use too. edgepose
runs on the first visible GPU; ``CUDA_VISIBLE_DEVICES`` chooses another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DEVICE = 0


class CudaError(RuntimeError):
    """A CUDA call that failed, with CUDA's name for the error."""


@dataclass(frozen=True)
class DeviceInfo:
    """A GPU: its name, its SM such as ``sm86``, and its memory in bytes."""

    name: str
    sm: str
    memory: int


def sm_number(sm: str) -> int:
    """Give the number of an SM.

    >>> sm_number("sm86")
    86
    """
    return int(sm.removeprefix("sm"))


def gpu_missing() -> str | None:
    """Why no CUDA GPU can be used here, in one sentence, or None if one can."""
    try:
        cudart = import_cudart()
    except ImportError:
        return "the Python module 'cuda.bindings' is needed to use a GPU and not installed: pip install cuda-python"
    return _why_unusable(cudart)


def device_info() -> DeviceInfo:
    """The GPU that edgepose runs on; ask :func:`gpu_missing` first.

    Raises:
        CudaError: there is none.
    """
    return _device_info(import_cudart())


def import_cudart() -> Any:
    from cuda.bindings import runtime

    return runtime


def _why_unusable(cudart: Any) -> str | None:
    """A driver that is missing or too old is reported by CUDA as the same error; the versions tell them apart."""
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


def _device_info(cudart: Any) -> DeviceInfo:
    (properties,) = check(cudart, cudart.cudaGetDeviceProperties(DEVICE))
    name = properties.name.decode().rstrip("\0")
    return DeviceInfo(name, f"sm{properties.major}{properties.minor}", properties.totalGlobalMem)


def check(cudart: Any, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take the error off a result of cuda-python, which puts it first."""
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
