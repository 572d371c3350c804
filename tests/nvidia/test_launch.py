"""Launches, on a driver that only takes notes."""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgepose.nvidia import launch
from edgepose.nvidia.device import CudaError
from edgepose.nvidia.launch import Launch

bindings = pytest.importorskip("cuda.bindings")

PLAN = Launch(Path("a.cu"), "kernel", 3, 128, (5, 7))


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_CONTEXT = 201


class CudaErrorCode(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815


class Driver:
    """One thread's CUDA: its context is 0 until a device is set, whose context is 70 and its number."""

    CUresult, cudaError_t = CUresult, CudaErrorCode  # noqa: N815

    def __init__(self, context: int, *, gpus: int = 4) -> None:
        self.context, self.gpus = context, gpus
        self.launched: list[tuple[Any, ...]] = []

    def cuCtxGetCurrent(self) -> tuple[Any, ...]:  # noqa: N802
        return CUresult.CUDA_SUCCESS, self.context

    def cudaGetDevice(self) -> tuple[Any, ...]:  # noqa: N802
        return CudaErrorCode.cudaSuccess, 2

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        if device >= self.gpus:
            return (CudaErrorCode.cudaErrorNoDevice,)
        self.context = 70 + device
        return (CudaErrorCode.cudaSuccess,)

    def cuLaunchKernel(self, *arguments: Any) -> tuple[Any, ...]:  # noqa: N802
        self.launched.append(arguments)
        return (CUresult.CUDA_SUCCESS if self.context else CUresult.CUDA_ERROR_INVALID_CONTEXT,)

    def cudaGetErrorName(self, error: CudaErrorCode) -> tuple[Any, ...]:  # noqa: N802
        return CudaErrorCode.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: CudaErrorCode) -> tuple[Any, ...]:  # noqa: N802, ARG002
        return CudaErrorCode.cudaSuccess, b"no such device"


@pytest.fixture
def run_on(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(driver: Driver) -> Driver:
        monkeypatch.setattr(bindings, "driver", driver, raising=False)
        monkeypatch.setattr(bindings, "runtime", driver, raising=False)
        monkeypatch.setattr(launch, "_load", lambda _, kernel, context: SimpleNamespace(kernel=kernel, context=context))
        launch.run(PLAN, 1000, 2000, 3000, 9)
        return driver

    return run


def test_the_arguments_are_inputs_numbers_and_output(run_on: Any) -> None:
    (arguments,) = run_on(Driver(context=50)).launched
    function, *sizes, stream, (values, kinds), _ = arguments
    assert (function.kernel, function.context, stream) == ("kernel", 50, 9)
    assert sizes == [3, 1, 1, 128, 1, 1, 0]
    assert values == (1000, 2000, 5, 7, 3000)
    assert [kind.__name__ for kind in kinds] == ["c_void_p", "c_void_p", "c_int", "c_int", "c_void_p"]


def test_a_thread_without_a_context_gets_that_of_its_device(run_on: Any) -> None:
    (arguments,) = run_on(Driver(context=0)).launched
    assert arguments[0].context == 72


def test_a_context_that_cannot_be_had_is_an_error(run_on: Any) -> None:
    with pytest.raises(CudaError, match="cudaErrorNoDevice: no such device"):
        run_on(Driver(context=0, gpus=1))
