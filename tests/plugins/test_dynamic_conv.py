"""Every form of the dynamic depthwise convolution against the plain loops."""

from pathlib import Path

import numpy as np
import pytest

from tests.doubles.dynamic_conv_loops import dynamic_depthwise_conv2d as loops

# (channels, height, width), (kh, kw): the sizes of the papers' crops, then odd maps that fill no whole tile.
CASES = [
    ((3, 64, 48), (7, 5)),
    ((2, 64, 64), (7, 7)),
    ((2, 17, 13), (5, 5)),
    ((2, 9, 31), (7, 5)),
    ((3, 5, 3), (7, 7)),
    ((2, 8, 8), (1, 1)),
]


def random_case(batch: int, shape: tuple[int, int, int], kernel: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(batch)
    x = rng.standard_normal((batch, *shape)).astype(np.float32)
    kernels = rng.standard_normal((batch, shape[0], *kernel)).astype(np.float32)
    return x, kernels


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def one_node_model(path: Path, shape: tuple[int, int, int], kernel: tuple[int, int]) -> Path:
    import onnx
    from onnx import TensorProto, helper

    from edgepose.plugins.onnx_function import OPSET, function_body
    from edgepose.plugins.spec import DOMAIN, OP_TYPE

    graph = helper.make_graph(
        [helper.make_node(OP_TYPE, ["x", "kernels"], ["y"], domain=DOMAIN)],
        "one_node",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape]),
            helper.make_tensor_value_info("kernels", TensorProto.FLOAT, ["N", shape[0], *kernel]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *shape])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=[function_body(*shape, *kernel)], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def test_loops_by_hand():
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    shift = np.zeros((1, 1, 3, 3))
    shift[0, 0, 1, 2] = 2  # twice the right neighbour: a correlation, not a mirrored kernel
    assert loops(x, shift)[0, 0].tolist() == [[2, 4, 0], [8, 10, 0], [14, 16, 0]]


@pytest.mark.parametrize(("shape", "kernel"), CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_torch_op_equals_loops(shape, kernel, batch):
    torch = pytest.importorskip("torch")
    from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

    x, kernels = random_case(batch, shape, kernel)
    got = dynamic_depthwise_conv2d(torch.from_numpy(x), torch.from_numpy(kernels)).numpy()
    assert relative_error(got, loops(x, kernels)) < 1e-4


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("shape", "kernel"), CASES)
def test_function_body_equals_loops(backend, shape, kernel, tmp_path):
    pytest.importorskip(backend)
    pytest.importorskip("onnx")
    from edgepose.backends.plan import open_graph

    session = open_graph(one_node_model(tmp_path / "op.onnx", shape, kernel), backend)
    for batch in (1, 3, 8):  # one file, any batch
        x, kernels = random_case(batch, shape, kernel)
        got = session.run({"x": x, "kernels": kernels})["y"]
        # The loops are slow; from the third sample on the torch op, itself checked above, stands in for them.
        assert relative_error(got[:2], loops(x[:2], kernels[:2])) < 1e-4
        assert relative_error(got, grouped(x, kernels)) < 1e-4


def grouped(x: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

    return dynamic_depthwise_conv2d(torch.from_numpy(x), torch.from_numpy(kernels)).numpy()


def test_gradients_reach_both_inputs():
    torch = pytest.importorskip("torch")
    from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dynamic_depthwise_conv2d, (x, kernels))


@pytest.mark.parametrize("kernel_shape", [(2, 3, 4, 5), (2, 3, 5, 4), (1, 3, 5, 5), (2, 2, 5, 5)])
def test_wrong_kernels_are_refused_with_their_shape(kernel_shape):
    torch = pytest.importorskip("torch")
    from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

    with pytest.raises(ValueError, match=rf"got \({kernel_shape[0]}, {kernel_shape[1]}"):
        dynamic_depthwise_conv2d(torch.zeros(2, 3, 8, 8), torch.zeros(kernel_shape))


@pytest.mark.slow
def test_the_operator_keeps_pytorchs_rules():
    """Schema, fake kernel and autograd registration, as PyTorch itself checks them."""
    torch = pytest.importorskip("torch")
    from edgepose.plugins import torch_op  # noqa: F401

    operator = torch.ops.edgepose.dynamic_depthwise_conv2d.default
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 6, 8, dtype=dtype, requires_grad=True)
        kernels = torch.randn(2, 3, 3, 5, dtype=dtype, requires_grad=True)
        torch.library.opcheck(operator, (x, kernels))


def test_an_empty_batch_gives_an_empty_result_and_empty_gradients():
    torch = pytest.importorskip("torch")
    from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

    x, kernels = torch.zeros(0, 3, 8, 8, requires_grad=True), torch.zeros(0, 3, 7, 5, requires_grad=True)
    y = dynamic_depthwise_conv2d(x, kernels)
    y.sum().backward()
    assert (y.shape, x.grad.shape, kernels.grad.shape) == (x.shape, x.shape, kernels.shape)


def test_autocast_casts_both_inputs_as_it_does_those_of_a_convolution():
    torch = pytest.importorskip("torch")
    from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

    x, kernels = (torch.from_numpy(a) for a in random_case(2, (3, 8, 8), (7, 5)))
    want = dynamic_depthwise_conv2d(x.bfloat16(), kernels.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        got = dynamic_depthwise_conv2d(x.requires_grad_(), kernels)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)
    got.float().sum().backward()
    assert x.grad.dtype == torch.float32


def test_maps_that_are_not_contiguous_are_taken():
    torch = pytest.importorskip("torch")
    from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

    x, kernels = (torch.from_numpy(a) for a in random_case(2, (3, 8, 8), (7, 5)))
    strided = x.to(memory_format=torch.channels_last), kernels.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided[0].is_contiguous() and not strided[1].is_contiguous()
    torch.testing.assert_close(dynamic_depthwise_conv2d(*strided), dynamic_depthwise_conv2d(x, kernels))


@pytest.mark.parametrize(
    ("kernels", "dtype", "complaint"),
    [
        ((2, 3, 13, 5), "float32", r"kh and kw go up to 11, got \(2, 3, 13, 5\)"),
        ((2, 3, 5), "float32", r"needs kernels \(N, C, kh, kw\).*got \(2, 3, 5\)"),
        ((2, 3, 5, 5), "float16", "x is torch.float32, kernels are torch.float16: expected one dtype"),
    ],
)
def test_what_the_kernel_cannot_take_is_refused(kernels, dtype, complaint):
    torch = pytest.importorskip("torch")
    from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

    with pytest.raises(ValueError, match=complaint):
        dynamic_depthwise_conv2d(torch.zeros(2, 3, 8, 8), torch.zeros(kernels, dtype=getattr(torch, dtype)))
