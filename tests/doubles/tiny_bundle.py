"""A bundle of a tiny network whose goldens come from a NumPy twin, for the tests of verify and bench."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import numpy_helper, parser

from edgepose.bundle.bundle import Bundle, write_manifest
from edgepose.bundle.goldens import Goldens, read_goldens
from edgepose.bundle.manifest import Manifest

HEIGHT, WIDTH, JOINTS = 32, 24, 14
CPU = ("onnxruntime", "openvino")
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
tiny (uint8[N, 32, 24, 3] images) => (float[N, 14, 3] keypoints, float[N, 14, 8, 6] heatmaps)
<int64[1] six = {6}, int64[3] flat_shape = {0, 14, 48}, float four = {4}, float zero = {0}>
{
    pixels = Cast <to = 1> (images)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    [stem] features = Conv <strides = [4, 4]> (planes, w1)
    [relu] rectified = Relu (features)
    [head] heatmaps = Conv (rectified, w2)
    flat = Reshape (heatmaps, flat_shape)
    score = ReduceMax <keepdims = 1> (flat, last)
    index = ArgMax <axis = 2> (flat)
    y = Div (index, six)
    row = Mul (y, six)
    x = Sub (index, row)
    whole = Concat <axis = 2> (x, y)
    point = Cast <to = 1> (whole)
    crop_point = Mul (point, four)
    positive = Greater (score, zero)
    kept = Where (positive, crop_point, zero)
    keypoints = Concat <axis = 2> (kept, score)
}
"""


def make_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    w1 = rng.normal(size=(4, 3, 4, 4)).astype(np.float32) / 255
    w2 = rng.normal(size=(JOINTS, 4, 1, 1)).astype(np.float32)
    return {"w1": w1, "w2": w2, "last": np.array([2], np.int64)}


def twin(images: np.ndarray, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The graph in NumPy: the stem's windows do not overlap, so a convolution is a product of blocks."""
    blocks = images.astype(np.float32).reshape(-1, 8, 4, 6, 4, 3)
    features = np.einsum("nyixjc,ocij->noyx", blocks, weights["w1"])
    rectified = np.maximum(features, 0)
    heatmaps = np.einsum("ncyx,jc->njyx", rectified, weights["w2"][:, :, 0, 0])
    best = heatmaps.reshape(-1, JOINTS, 48).argmax(axis=2)
    score = heatmaps.max(axis=(2, 3))
    points = np.stack([best % 6, best // 6], axis=-1) * 4 * (score > 0)[..., None]
    keypoints = np.concatenate([points, score[..., None]], axis=-1).astype(np.float32)
    return {"features": features, "rectified": rectified, "heatmaps": heatmaps, "keypoints": keypoints}


def write_graph(path: Path, weights: dict[str, np.ndarray], text: str = GRAPH) -> None:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, path)


def make_bundle(path: Path, crops: int = 3) -> Bundle:
    """A bundle of the tiny graph and its goldens."""
    path.mkdir()
    weights = make_weights()
    images = np.random.default_rng(1).integers(0, 256, (crops, HEIGHT, WIDTH, 3), dtype=np.uint8)
    outputs = twin(images, weights)
    write_graph(path / "pose.onnx", weights)
    Goldens(images, {name: outputs[name] for name in ("keypoints", "heatmaps")}).save(path / "golden.npz")
    bundle = write_manifest(path, Manifest("tiny", "hrnet_w32", "lsp14", (HEIGHT, WIDTH)))
    return bundle.with_files(bundle.graph, path / "golden.npz")


def change_goldens(bundle: Bundle, **arrays: np.ndarray) -> None:
    """Replace ``images``, or outputs by name."""
    goldens = read_goldens(bundle)
    images = arrays.pop("images", goldens.images)
    Goldens(images, {**goldens.outputs, **arrays}).save(bundle.path / "golden.npz")
