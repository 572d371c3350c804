"""The kernel on a GPU: PyTorch's operator against its CPU form. ``benchmarks/dynamic_conv_gpu.py`` does far more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU"),
]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("size", "kernel"), [((64, 48), (7, 5)), ((64, 64), (7, 7)), ((9, 31), (7, 5)), ((8, 8), (11, 3))]
)
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_result_and_gradients_are_those_of_the_cpu(batch, size, kernel, dtype):
    random = torch.Generator().manual_seed(batch)
    x, kernels, dy = (
        torch.randn(batch, 3, *sides, generator=random).to(dtype).float() for sides in (size, kernel, size)
    )
    results = []
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        inputs = [tensor.to(device, kind).requires_grad_() for tensor in (x, kernels)]
        y = dynamic_depthwise_conv2d(*inputs)
        y.backward(dy.to(device, kind))
        results.append([tensor.detach().float().cpu() for tensor in (y, *(i.grad for i in inputs))])
    for want, got in zip(*results, strict=True):
        scale = float(want.abs().max()) if batch else 1.0
        torch.testing.assert_close(got, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


def test_a_thread_whose_first_work_on_the_gpu_is_this_call():
    x, kernels = torch.randn(2, 3, 64, 48, device="cuda"), torch.randn(2, 3, 7, 5, device="cuda")
    want = dynamic_depthwise_conv2d(x, kernels)  # its memory goes back to PyTorch, whose next tensor needs no CUDA call
    expected = want.cpu()
    del want
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(dynamic_depthwise_conv2d, x, kernels).result()
    assert torch.equal(got.cpu(), expected)


def test_tensors_that_do_not_begin_on_sixteen_bytes_give_the_same():
    x, kernels = torch.randn(2, 3, 64, 48, device="cuda").half(), torch.randn(2, 3, 7, 5, device="cuda").half()
    shifted = torch.empty(x.numel() + 1, dtype=x.dtype, device="cuda")[1:].view(x.shape)
    shifted.copy_(x)
    assert shifted.data_ptr() % 16
    torch.testing.assert_close(
        dynamic_depthwise_conv2d(shifted, kernels), dynamic_depthwise_conv2d(x, kernels), rtol=1e-3, atol=1e-2
    )


def test_a_side_stream_waits_for_nothing_else():
    x, kernels = torch.randn(8, 38, 64, 48, device="cuda"), torch.randn(8, 38, 7, 5, device="cuda")
    want = dynamic_depthwise_conv2d(x, kernels)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = dynamic_depthwise_conv2d(x, kernels)
    stream.synchronize()  # not the device: the kernel has to be in this stream
    assert torch.equal(got, want)


def test_the_call_can_be_captured_into_a_graph():
    x, kernels = torch.randn(2, 3, 64, 48, device="cuda"), torch.randn(2, 3, 7, 5, device="cuda")
    want = dynamic_depthwise_conv2d(x, kernels)  # loads the kernel, which capturing could not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = dynamic_depthwise_conv2d(x, kernels)
    graph.replay()
    assert torch.equal(y, want)
