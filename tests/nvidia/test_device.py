from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from edgepose.nvidia import device as cuda
from edgepose.nvidia.device import CudaError, DeviceInfo, gpu_missing
from edgepose.nvidia.stream import Stream
from tests.doubles.gpu_doubles import HostCudart


def test_a_machine_with_a_gpu_misses_nothing() -> None:
    assert cuda._why_unusable(HostCudart()) is None
    assert cuda._why_unusable(HostCudart(driver=13020, bindings=13000)) is None
    # Within one major version CUDA runs on an older driver.
    assert cuda._why_unusable(HostCudart(driver=12060, bindings=12090)) is None


@pytest.mark.parametrize(
    ("cudart", "sentence"),
    [
        (HostCudart(driver=0, devices=0), "there is no NVIDIA driver: install the driver of your GPU"),
        (
            HostCudart(driver=12060, bindings=13040, devices=0),
            "the NVIDIA driver supports CUDA 12.6, the installed cuda-python needs 13.4: pip install 'cuda-python<13'",
        ),
        (
            HostCudart(devices=0),
            "the NVIDIA driver finds no GPU (cudaErrorNoDevice): see nvidia-smi and CUDA_VISIBLE_DEVICES",
        ),
    ],
)
def test_why_a_gpu_is_missing(cudart: HostCudart, sentence: str) -> None:
    assert str(cuda._why_unusable(cudart)).startswith(sentence)


def test_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert str(gpu_missing()).endswith("not installed: pip install cuda-python")


def test_device_info(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "import_cudart", lambda: HostCudart(memory=1 << 33))
    assert cuda.device_info() == DeviceInfo("Test GPU", "sm87", 1 << 33)
    monkeypatch.setattr(cuda, "import_cudart", lambda: HostCudart(devices=0))
    with pytest.raises(CudaError, match="cudaErrorNoDevice: no such device"):
        cuda.device_info()


def test_arrays_go_to_the_device_and_back_when_synchronised() -> None:
    cudart = HostCudart()
    stream = Stream(cudart)
    assert cudart.current_device == 0
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    address, back = stream.allocate(array.nbytes), np.zeros_like(array)
    stream.upload(address, array)
    stream.download(address, back[1:])
    assert back.sum() == 0  # queued only
    stream.synchronise()
    np.testing.assert_array_equal(back, [[0] * 4, [0, 1, 2, 3], [4, 5, 6, 7]])


def test_a_strided_array_is_refused() -> None:
    stream = Stream(HostCudart())
    with pytest.raises(ValueError, match=r"only a contiguous array can be copied, got shape \(4,\), strides \(2,\)"):
        stream.upload(stream.allocate(8), np.zeros(8, np.uint8)[::2])


def test_memory_is_freed_once_however_a_stream_ends() -> None:
    cudart = HostCudart()
    stream = Stream(cudart)
    stream.allocate(16)
    stream.allocate(32)
    assert (len(cudart.blocks), len(cudart.streams)) == (2, 1)
    stream.close()
    stream.close()
    assert (cudart.blocks, cudart.streams) == ({}, [])

    forgotten = Stream(cudart)
    forgotten.allocate(16)
    del forgotten
    gc.collect()
    assert (cudart.blocks, cudart.streams) == ({}, [])


def test_errors_carry_cudas_name() -> None:
    with pytest.raises(CudaError, match="cudaErrorMemoryAllocation: out of memory"):
        Stream(HostCudart(memory=100)).allocate(101)
    with pytest.raises(CudaError, match="cudaErrorNoDevice"):
        Stream(HostCudart(devices=0))
