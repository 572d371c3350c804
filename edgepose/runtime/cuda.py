"""The few CUDA calls that the runtime needs, over ``cuda-python``: is there a GPU, and a stream that owns its memory.

CUDA's runtime API works in the primary context of a device, the one that TensorRT, torch and CuPy use too. edgepose
runs on the first visible GPU; ``CUDA_VISIBLE_DEVICES`` chooses another one.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

_DEVICE = 0


class CudaError(RuntimeError):
    """A CUDA call that failed, with CUDA's name for the error."""


@dataclass(frozen=True)
class DeviceInfo:
    """A GPU: its name, its SM such as ``sm86``, and its memory in bytes."""

    name: str
    sm: str
    memory: int


def gpu_missing() -> str | None:
    """Why no CUDA GPU can be used here, in one sentence, or None if one can."""
    try:
        cudart = _import_cudart()
    except ImportError:
        return "the Python module 'cuda.bindings' is needed to use a GPU and not installed: pip install cuda-python"
    return _why_unusable(cudart)


def device_info() -> DeviceInfo:
    """The GPU that edgepose runs on; ask :func:`gpu_missing` first.

    Raises:
        CudaError: there is none.
    """
    return _device_info(_import_cudart())


class Stream:
    """An ordered queue of work on the GPU, and the device memory that this work uses.

    Copies and kernels of one stream run in the order they were queued. Closing it, or losing the last reference to it,
    frees its memory.

    Args:
        cudart: the module ``cuda.bindings.runtime``; :func:`open_stream` passes it.

    Raises:
        CudaError: as every method, when CUDA reports an error (an earlier kernel's may surface here).
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self.make_current()
        (stream,) = _check(cudart, cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        #: What other libraries take as a stream.
        self.handle = int(stream)
        self._addresses: list[int] = []
        self._release = weakref.finalize(self, _release, cudart, stream, self._addresses)

    def make_current(self) -> None:
        """Make the GPU the calling thread's device; another library may have chosen another one."""
        _check(self._cudart, self._cudart.cudaSetDevice(_DEVICE))

    def allocate(self, nbytes: int) -> int:
        """The address of ``nbytes`` of new device memory, owned by the stream."""
        (address,) = _check(self._cudart, self._cudart.cudaMalloc(nbytes))
        self._addresses.append(int(address))
        return int(address)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of a contiguous array to the device; it must stay as it is until :meth:`synchronise`."""
        self._copy(address, array.ctypes.data, array, self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy from the device into a contiguous array; it is filled after :meth:`synchronise`."""
        self._copy(array.ctypes.data, address, array, self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def synchronise(self) -> None:
        """Wait until everything queued is done."""
        _check(self._cudart, self._cudart.cudaStreamSynchronize(self.handle))

    def close(self) -> None:
        """Free the memory and the stream; may be called again."""
        self._release()

    def _copy(self, to: int, source: int, array: NDArray[Any], kind: Any) -> None:
        if not array.flags.c_contiguous:
            raise ValueError(f"only a contiguous array can be copied, got strides {array.strides} of {array.shape}")
        _check(self._cudart, self._cudart.cudaMemcpyAsync(to, source, array.nbytes, kind, self.handle))


def open_stream() -> Stream:
    """A new stream on the GPU.

    Raises:
        CudaError: there is no GPU.
    """
    return Stream(_import_cudart())


def _import_cudart() -> Any:
    from cuda.bindings import runtime

    return runtime


def _why_unusable(cudart: Any) -> str | None:
    """A driver that is missing or too old is reported by CUDA as the same error; the versions tell them apart."""
    (driver,) = _check(cudart, cudart.cudaDriverGetVersion())
    (bindings,) = _check(cudart, cudart.cudaRuntimeGetVersion())
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
    (properties,) = _check(cudart, cudart.cudaGetDeviceProperties(_DEVICE))
    name = properties.name.decode().rstrip("\0")
    return DeviceInfo(name, f"sm{properties.major}{properties.minor}", properties.totalGlobalMem)


def _release(cudart: Any, stream: Any, addresses: list[int]) -> None:
    """Errors are not raised: there is nobody to hear them, and a context that failed has freed its memory."""
    for address in addresses:
        cudart.cudaFree(address)
    cudart.cudaStreamDestroy(stream)


def _check(cudart: Any, result: tuple[Any, ...]) -> tuple[Any, ...]:
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
