"""A Concat behind which INT8 begins, which both CPU engines get wrong when left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import numpy_helper, parser

from edgepose.backends.plan import BACKENDS, open_graph

GRAPH = """
<ir_version: 9, opset_import: ["": 19]>
concat ({kind}[N, 16, 8, 8] x) => ({kind}[N, 16, 8, 8] y)
{{
    a = Conv (x, kernel_a)
    gate_a = Sigmoid (a)
    left = Mul (a, gate_a)
    b = Conv (x, kernel_b)
    gate_b = Sigmoid (b)
    right = Mul (b, gate_b)
    left_int8 = QuantizeLinear (left, scale, zero)
    left_again = DequantizeLinear (left_int8, scale, zero)
    right_int8 = QuantizeLinear (right, scale, zero)
    right_again = DequantizeLinear (right_int8, scale, zero)
    both = Concat <axis = 1> (left_again, right_again)
    both_int8 = QuantizeLinear (both, scale, zero)
    both_again = DequantizeLinear (both_int8, scale, zero)
    kernel = DequantizeLinear <axis = 0> (kernel_int8, kernel_scale, kernel_zero)
    y = Conv (both_again, kernel)
}}
"""
SCALE = 0.03125


def write_graph(path: Path, dtype: type) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weights = {
        "kernel_a": random.normal(size=(16, 16, 1, 1)).astype(dtype) / dtype(4),
        "kernel_b": random.normal(size=(16, 16, 1, 1)).astype(dtype) / dtype(4),
        "scale": np.array(SCALE, dtype),
        "zero": np.array(0, np.int8),
        "kernel_int8": random.integers(-127, 128, (16, 32, 1, 1)).astype(np.int8),
        "kernel_scale": np.full(16, 2.0**-9, dtype),
        "kernel_zero": np.zeros(16, np.int8),
    }
    model = parser.parse_model(GRAPH.format(kind={np.float32: "float", np.float16: "float16"}[dtype]))
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, path)
    return weights


def twin(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The graph in NumPy: its convolutions are products over the channels."""

    def branch(kernel: np.ndarray) -> np.ndarray:
        features = np.einsum("ncyx,oc->noyx", x.astype(np.float64), kernel[:, :, 0, 0].astype(np.float64))
        return features / (1 + np.exp(-features))

    both = np.concatenate([branch(weights["kernel_a"]), branch(weights["kernel_b"])], axis=1)
    levels = np.rint(both / SCALE).clip(-128, 127)
    return np.einsum("ncyx,oc->noyx", levels * SCALE, weights["kernel_int8"][:, :, 0, 0] * 2.0**-9)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_int8_behind_a_concat_is_as_the_graph_says(tmp_path: Path, backend: str, dtype: type) -> None:
    pytest.importorskip(backend)
    if dtype == np.float16 and (reason := BACKENDS[backend].refuses("int8+fp16")):
        pytest.skip(reason)
    weights = write_graph(tmp_path / "concat.onnx", dtype)
    x = np.random.default_rng(1).normal(size=(2, 16, 8, 8)).astype(dtype)
    session = open_graph(tmp_path / "concat.onnx", backend)
    got = session.run({"x": x})["y"]
    session.close()
    want = twin(x, weights)
    # A value on the edge of a level may fall to either side: one step through the largest weight, a few times.
    assert np.abs(got - want).max() < 3 * SCALE * 127 * 2.0**-9 + (0.01 if dtype == np.float16 else 0)
    assert np.ptp(want) > 3


def test_what_openvino_reads_as_unsigned_is_an_output_as_the_graph_says(tmp_path: Path) -> None:
    """Kernels keep their int8, and so does an int8 tensor that leaves the graph."""
    pytest.importorskip("openvino")
    model = parser.parse_model("""
        <ir_version: 9, opset_import: ["": 19]>
        levels (float[N] x) => (int8[N] y, float[N] z)
        { y = QuantizeLinear (x, scale, zero)
          z = DequantizeLinear (y, scale, zero) }
    """)
    for name, value in (("scale", np.float32(0.5)), ("zero", np.int8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, tmp_path / "levels.onnx")
    session = open_graph(tmp_path / "levels.onnx", "openvino")
    got = session.run({"x": np.array([-100.0, -1.0, 0.5, 100.0], np.float32)})
    session.close()
    np.testing.assert_array_equal(got["z"], [-64.0, -1.0, 0.5, 63.5])
    np.testing.assert_array_equal(got["y"], np.array([-128, -2, 1, 127], np.int8))
