"""A CUDA stream that owns the device memory its work uses."""

from __future__ import annotations

import weakref
from typing import Any

from numpy.typing import NDArray

from .device import DEVICE, check, import_cudart


class Stream:
    """A queue of copies and kernels, which the GPU runs in order, and the device memory that they use.

    The memory is freed when the stream is closed or garbage-collected. :func:`open_stream` makes one.

    Raises:
        CudaError: CUDA reports an error, possibly that of an earlier kernel. All methods may raise it.
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self.make_current()
        (stream,) = check(cudart, cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        #: The stream's handle, as TensorRT and CUDA take it.
        self.handle = int(stream)
        self._addresses: list[int] = []
        self._release = weakref.finalize(self, _release, cudart, stream, self._addresses)

    def make_current(self) -> None:
        """Make edgepose's GPU the calling thread's device: another library may have chosen another one."""
        check(self._cudart, self._cudart.cudaSetDevice(DEVICE))

    def allocate(self, nbytes: int) -> int:
        """Allocate ``nbytes`` of device memory, owned by the stream, and return their address."""
        (address,) = check(self._cudart, self._cudart.cudaMalloc(nbytes))
        self._addresses.append(int(address))
        return int(address)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of a contiguous array to the device; do not change or free it before :meth:`synchronise`."""
        self._copy(address, array.ctypes.data, array, self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy from the device into a contiguous array, which is filled after :meth:`synchronise`."""
        self._copy(array.ctypes.data, address, array, self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def synchronise(self) -> None:
        """Wait until everything queued is done."""
        check(self._cudart, self._cudart.cudaStreamSynchronize(self.handle))

    def close(self) -> None:
        """Free the memory and the stream; later calls do nothing."""
        self._release()

    def _copy(self, to: int, source: int, array: NDArray[Any], kind: Any) -> None:
        if not array.flags.c_contiguous:
            raise ValueError(f"only a contiguous array can be copied, got shape {array.shape}, strides {array.strides}")
        check(self._cudart, self._cudart.cudaMemcpyAsync(to, source, array.nbytes, kind, self.handle))


def open_stream() -> Stream:
    """Open a new stream on the GPU; raise CudaError if there is none."""
    return Stream(import_cudart())


def _release(cudart: Any, stream: Any, addresses: list[int]) -> None:
    """Free memory and stream; ignore errors, as a finaliser cannot report them and a failed context has freed all."""
    for address in addresses:
        cudart.cudaFree(address)
    cudart.cudaStreamDestroy(stream)
