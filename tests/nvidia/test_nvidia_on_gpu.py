"""The GPU itself: what CUDA tells of it, copies, the order of work, and who frees which memory."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgepose.nvidia.device import CudaError, check, device_info, gpu_missing, import_cudart, sm_number
from edgepose.nvidia.stream import open_stream

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu_missing() is not None, reason=str(gpu_missing()))]

#: Bytes of the blocks whose freeing is watched: far more than what other processes change meanwhile.
LARGE = 1 << 28


def free_memory() -> int:
    """Bytes of the GPU's memory that nobody uses."""
    cudart = import_cudart()
    free, _ = check(cudart, cudart.cudaMemGetInfo())
    return int(free)


def test_on_a_gpu() -> None:
    info = device_info()
    assert info.name
    assert info.sm.startswith("sm")
    assert info.memory > 1 << 28
    stream = open_stream()
    array = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    address, back = stream.allocate(array.nbytes), np.zeros_like(array)
    stream.upload(address, array)
    stream.download(address, back)
    stream.synchronise()
    np.testing.assert_array_equal(back, array)
    stream.close()


def test_pytorch_tells_the_same_of_the_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA GPU")
    properties, info = torch.cuda.get_device_properties(0), device_info()
    assert info.name == properties.name
    assert sm_number(info.sm) == 10 * properties.major + properties.minor
    assert info.memory == properties.total_memory


def test_a_launch_is_for_the_sm_of_the_gpu() -> None:
    from edgepose.nvidia.launch import current_sm

    stream = open_stream()  # makes the primary context current
    assert current_sm() == sm_number(device_info().sm)
    stream.close()


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.float16, np.float32, np.int64])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 64, 48, 3), (0, 4)])
def test_arrays_come_back_as_they_went(kind: type, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(-100, 100, shape).astype(kind)
    stream = open_stream()
    address, back = stream.allocate(max(array.nbytes, 1)), np.full_like(array, 7)
    stream.upload(address, array)
    stream.download(address, back)
    stream.synchronise()
    np.testing.assert_array_equal(back, array)
    stream.close()


def test_work_of_a_stream_is_done_in_its_order() -> None:
    stream = open_stream()
    arrays = [np.full(1 << 22, value, np.int32) for value in range(8)]
    address, backs = stream.allocate(arrays[0].nbytes), [np.zeros_like(array) for array in arrays]
    for array, back in zip(arrays, backs, strict=True):
        stream.upload(address, array)
        stream.download(address, back)
    stream.synchronise()
    assert [(int(back.min()), int(back.max())) for back in backs] == [(value, value) for value in range(8)]
    stream.close()


def test_a_stream_works_in_another_thread() -> None:
    stream = open_stream()
    array = np.arange(1000, dtype=np.float32)
    address, back = stream.allocate(array.nbytes), np.zeros_like(array)

    def copy() -> None:
        stream.make_current()
        stream.upload(address, array)
        stream.download(address, back)
        stream.synchronise()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(copy).result()
    np.testing.assert_array_equal(back, array)
    stream.close()


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_memory_of_a_stream_is_freed(how: str) -> None:
    open_stream().close()  # the context's own memory is taken now
    before = free_memory()
    stream = open_stream()
    for _ in range(2):
        stream.allocate(LARGE)
    assert before - free_memory() >= 1.5 * LARGE
    if how == "closed":
        stream.close()
        stream.close()
    del stream
    gc.collect()
    assert before - free_memory() < LARGE / 2


def test_what_does_not_fit_is_an_error_and_the_stream_goes_on() -> None:
    stream = open_stream()
    with pytest.raises(CudaError, match="cudaErrorMemoryAllocation"):
        stream.allocate(2 * device_info().memory)
    array = np.arange(5, dtype=np.int16)
    address, back = stream.allocate(array.nbytes), np.zeros_like(array)
    stream.upload(address, array)
    stream.download(address, back)
    stream.synchronise()
    np.testing.assert_array_equal(back, array)
    stream.close()
