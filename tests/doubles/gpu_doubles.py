"""A CUDA runtime that keeps device memory in host memory, and a TensorRT that runs one engine on it.

Copies and kernels wait in a queue until the stream is synchronised, so that a result that is read too early is wrong.
"""

# The names and parameters are those of CUDA and TensorRT.
# ruff: noqa: N802, N815, ARG002

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

#: Enumerations whose members are not known before the call; mypy takes a call of the class itself for a definition.
make_int_enum: Any = enum.IntEnum


class CudaErrorCode(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


class HostCudart:
    """The part of ``cuda.bindings.runtime`` that edgepose calls; every result starts with the error."""

    cudaError_t = CudaErrorCode
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamNonBlocking = 1

    def __init__(self, *, driver: int = 13000, bindings: int = 13000, devices: int = 1, memory: int = 1 << 20) -> None:
        self.driver, self.bindings, self.devices, self.memory = driver, bindings, devices, memory
        self.blocks: dict[int, Any] = {}
        self.queue: list[Callable[[], object]] = []
        self.streams: list[int] = []
        self.current_device: int | None = None

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return (CudaErrorCode.cudaSuccess, self.driver)

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return (CudaErrorCode.cudaSuccess, self.bindings)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (CudaErrorCode.cudaSuccess, self.devices) if self.devices else (CudaErrorCode.cudaErrorNoDevice, None)

    def cudaGetErrorName(self, error: CudaErrorCode) -> tuple[Any, ...]:
        return (CudaErrorCode.cudaSuccess, error.name.encode())

    def cudaGetErrorString(self, error: CudaErrorCode) -> tuple[Any, ...]:
        return (CudaErrorCode.cudaSuccess, b"out of memory" if error == 2 else b"no such device")

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        properties = SimpleNamespace(name=b"Test GPU\0\0", major=8, minor=7, totalGlobalMem=self.memory)
        return (CudaErrorCode.cudaSuccess, properties) if self.devices else (CudaErrorCode.cudaErrorNoDevice, None)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        self.current_device = device
        return (CudaErrorCode.cudaSuccess,) if self.devices else (CudaErrorCode.cudaErrorNoDevice,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        self.streams.append(0xCAFE)
        return (CudaErrorCode.cudaSuccess, 0xCAFE)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.streams.remove(stream)
        return (CudaErrorCode.cudaSuccess,)

    def cudaMalloc(self, nbytes: int) -> tuple[Any, ...]:
        if sum(map(ctypes.sizeof, self.blocks.values())) + nbytes > self.memory:
            return (CudaErrorCode.cudaErrorMemoryAllocation, None)
        block = (ctypes.c_ubyte * nbytes)()
        self.blocks[ctypes.addressof(block)] = block
        return (CudaErrorCode.cudaSuccess, ctypes.addressof(block))

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.blocks[address]
        return (CudaErrorCode.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> tuple[Any, ...]:
        device = to if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert nbytes <= ctypes.sizeof(self.blocks[device])
        self.queue.append(lambda: ctypes.memmove(to, source, nbytes))
        return (CudaErrorCode.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        assert stream in self.streams
        while self.queue:
            self.queue.pop(0)()
        return (CudaErrorCode.cudaSuccess,)


def view(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory as an array."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(memoryview((ctypes.c_ubyte * nbytes).from_address(address)), dtype).reshape(shape)


class SumEngine:
    """``images`` uint8 (N, 2, 2, 3) to ``sums`` float32 (N, 3), the sum over the pixels of each channel.

    The method named ``refuses`` returns False.
    """

    shapes = {"images": (-1, 2, 2, 3), "sums": (-1, 3)}  # noqa: RUF012
    types = {"images": np.uint8, "sums": np.float32}  # noqa: RUF012
    num_io_tensors = 2

    def __init__(self, cudart: HostCudart, batches: tuple[int, int, int], *, refuses: str = "") -> None:
        self.cudart, self.batches, self.refuses = cudart, batches, refuses
        self.ran: list[int] = []

    def get_tensor_name(self, index: int) -> str:
        return ("images", "sums")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images" else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> type:
        return self.types[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(batch, *self.shapes[name][1:]) for batch in self.batches]

    def create_execution_context(self) -> SumEngine:
        self.addresses: dict[str, int] = {}
        self.rows = 0
        return self

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.refuses != "set_tensor_address"

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.batches[0] <= shape[0] <= self.batches[2]
        self.rows = shape[0]
        return self.refuses != "set_input_shape"

    def execute_async_v3(self, stream: int) -> bool:
        assert self.cudart.current_device == 0
        assert stream in self.cudart.streams
        self.ran.append(self.rows)
        self.cudart.queue.append(self._sum)
        return self.refuses != "execute_async_v3"

    def _sum(self) -> None:
        images = view(self.addresses["images"], (self.rows, 2, 2, 3), np.uint8)
        view(self.addresses["sums"], (self.rows, 3), np.float32)[:] = images.sum(axis=(1, 2))


def tensorrt_with(engine: SumEngine) -> Any:
    """A module that loads ``engine`` from the bytes ``plan`` and nothing else."""
    severity = make_int_enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)

    class ILogger:
        Severity = severity

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> SumEngine | None:
            if plan != b"plan":
                self.log.log(severity.ERROR, f"Magic tag of {len(plan)} bytes does not match")
                return None
            return engine

    modes = SimpleNamespace(INPUT="in", OUTPUT="out")
    return SimpleNamespace(
        __version__="10.3.0", ILogger=ILogger, Runtime=Runtime, TensorIOMode=modes, nptype=lambda dtype: dtype
    )
