"""A CUDA stream and the device memory that its work uses."""

from __future__ import annotations

import weakref
from typing import Any

from numpy.typing import NDArray

from .device import DEVICE, check, import_cudart


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
        (stream,) = check(cudart, cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        #: What other libraries take as a stream.
        self.handle = int(stream)
        self._addresses: list[int] = []
        self._release = weakref.finalize(self, _release, cudart, stream, self._addresses)

    def make_current(self) -> None:
        """Make the GPU the calling thread's device; another library may have chosen another one."""
        check(self._cudart, self._cudart.cudaSetDevice(DEVICE))

    def allocate(self, nbytes: int) -> int:
        """The address of ``nbytes`` of new device memory, owned by the stream."""
        (address,) = check(self._cudart, self._cudart.cudaMalloc(nbytes))
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
        check(self._cudart, self._cudart.cudaStreamSynchronize(self.handle))

    def close(self) -> None:
        """Free the memory and the stream; may be called again."""
        self._release()

    def _copy(self, to: int, source: int, array: NDArray[Any], kind: Any) -> None:
        if not array.flags.c_contiguous:
            raise ValueError(f"only a contiguous array can be copied, got strides {array.strides} of {array.shape}")
        check(self._cudart, self._cudart.cudaMemcpyAsync(to, source, array.nbytes, kind, self.handle))


def open_stream() -> Stream:
    """A new stream on the GPU.

    Raises:
        CudaError: there is no GPU.
    """
    return Stream(import_cudart())


def _release(cudart: Any, stream: Any, addresses: list[int]) -> None:
    """Errors are not raised: there is nobody to hear them, and a context that failed has freed its memory."""
    for address in addresses:
        cudart.cudaFree(address)
    cudart.cudaStreamDestroy(stream)
