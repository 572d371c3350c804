"""ONNX files of YOLOv3 in the layouts that exporters write become bundles that give what the files give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxsim")
pytest.importorskip("skimage")

from onnx import numpy_helper, parser

from edgepose.backends.plan import open_session
from edgepose.cli import main
from edgepose.core.errors import CheckError, UsageError
from edgepose.detectors.kinds import open_detector
from edgepose.detectors.yolov3 import YOLOV3
from edgepose.export import wrap
from edgepose.export.from_onnx import import_detector
from edgepose.verify import verify

HEIGHT, WIDTH, CLASSES = 64, 96, 2
CHANNELS = 3 * (5 + CLASSES)
#: Heads of one convolution each, in an order that is not that of the strides.
HEADS = """
<ir_version: 7, opset_import: ["": {opset}]>
yolov3 (float[{batch}, 3, 64, 96] images)
    => (float[{batch}, 21, 8, 12] fine, float[{batch}, 21, 2, 3] coarse, float[{batch}, 21, 4, 6] middle)
{{
    fine = Conv <strides = [8, 8]> (images, kernel_8, bias)
    middle = Conv <strides = [16, 16]> (images, kernel_16, bias)
    coarse = Conv <strides = [32, 32]> (images, kernel_32, bias)
}}
"""
#: As ultralytics' exporter decodes them, with the batch in its shapes and the raw heads beside the list of boxes.
DECODED = """
<ir_version: 7, opset_import: ["": 12]>
yolov3 (float[1, 3, 64, 96] images)
    => (float[1, 378, 7] output, float[1, 3, 2, 3, 7] raw_32, float[1, 3, 4, 6, 7] raw_16)
<int64[3] flat = {1, -1, 7}>
{
"""
ONE_SCALE = """
    map_@ = Conv <strides = [@, @]> (images, kernel_@, bias)
    split_@ = Reshape (map_@, shape_@)
    raw_@ = Transpose <perm = [0, 1, 3, 4, 2]> (split_@)
    sure_@ = Sigmoid (raw_@)
    xy_@, wh_unused_@, rest_@ = Split <axis = 4, split = [2, 2, 3]> (sure_@)
    xy_unused_@, log_@, rest_unused_@ = Split <axis = 4, split = [2, 2, 3]> (raw_@)
    cells_@ = Add (xy_@, grid_@)
    centre_@ = Mul (cells_@, stride_@)
    factor_@ = Exp (log_@)
    size_@ = Mul (factor_@, anchor_@)
    box_@ = Concat <axis = 4> (centre_@, size_@, rest_@)
    list_@ = Reshape (box_@, flat)
"""
ANCHORS = {
    32: [(116, 90), (156, 198), (373, 326)],
    16: [(30, 61), (62, 45), (59, 119)],
    8: [(10, 13), (16, 30), (33, 23)],
}


def weights() -> dict[str, np.ndarray]:
    """Kernels of a mean of grey levels: predictions differ from cell to cell, and a few are persons."""
    random = np.random.default_rng(0)
    kernels = {f"kernel_{side}": random.normal(size=(CHANNELS, 3, side, side)) / (1.2 * side) for side in ANCHORS}
    return {name: array.astype(np.float32) for name, array in {**kernels, "bias": np.zeros(CHANNELS)}.items()}


def save(text: str, arrays: dict[str, np.ndarray], path: Path) -> Path:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(model, path)
    return path


def write_heads(path: Path, batch: str = "1", opset: int = 11) -> Path:
    return save(HEADS.format(batch=batch, opset=opset), weights(), path)


def write_decoded(path: Path) -> Path:
    arrays, text = weights(), DECODED
    for stride, anchors in ANCHORS.items():
        y, x = np.mgrid[: HEIGHT // stride, : WIDTH // stride]
        text += ONE_SCALE.replace("@", str(stride))
        arrays[f"grid_{stride}"] = np.stack([x, y], axis=-1).astype(np.float32)[None, None]
        arrays[f"stride_{stride}"] = np.array(stride, np.float32)
        arrays[f"anchor_{stride}"] = np.array(anchors, np.float32)[None, :, None, None]
        arrays[f"shape_{stride}"] = np.array([1, 3, 7, HEIGHT // stride, WIDTH // stride])
    return save(f"{text}\n    output = Concat <axis = 1> (list_32, list_16, list_8)\n}}", arrays, path)


WRITERS = {
    "heads of one picture": write_heads,
    "heads of any batch, newer opset": lambda path: write_heads(path, "N", 18),
    "decoded": write_decoded,
}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("name", WRITERS)
def test_the_bundle_gives_what_the_file_gives(name: str, tmp_path: Path) -> None:
    bundle = import_detector(WRITERS[name](tmp_path / "yolov3.onnx"), tmp_path / "yolov3.edgepose")
    manifest = bundle.manifest
    assert (manifest.model, manifest.input_size, manifest.options) == ("yolov3", (HEIGHT, WIDTH), {"boxes": 378})
    assert manifest.reference == "the imported file"
    pictures = np.random.default_rng(1).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    session = open_session(bundle, "onnxruntime")
    got = session.run({"images": pictures})
    session.close()
    assert [(spec.name, spec.shape) for spec in session.outputs] == [("boxes", (None, 378, 4)), ("scores", (None, 378))]
    # By hand: the second anchor of the middle grid in row 2 and column 4, place 18 + 24 + 2 * 6 + 4 of all.
    kernel = weights()["kernel_16"][7:14]
    for number, picture in enumerate(pictures):
        patch = picture[32:48, 64:80].transpose(2, 0, 1) / 255
        x, y, w, h, certain, person, _ = (kernel * patch).sum(axis=(1, 2, 3))
        centre = 16 * (4 + sigmoid(x)), 16 * (2 + sigmoid(y))
        half = 62 * np.exp(w) / 2, 45 * np.exp(h) / 2
        want = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
        np.testing.assert_allclose(got["boxes"][number, 58], want, atol=1e-3)
        assert got["scores"][number, 58] == pytest.approx(sigmoid(certain) * sigmoid(person), abs=1e-5)


def test_all_layouts_give_the_same(tmp_path: Path) -> None:
    picture = np.random.default_rng(2).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    found = []
    for number, write in enumerate(WRITERS.values()):
        file = write(tmp_path / f"{number}.onnx")
        bundle = import_detector(file, tmp_path / f"{number}.edgepose")
        session = open_session(bundle, "onnxruntime")
        found.append(session.run({"images": picture}))
        session.close()
        with_file = open_detector(file)
        outputs = with_file.infer(with_file.prepare(picture[0]))
        boxes, scores = YOLOV3.decode(outputs, (HEIGHT, WIDTH), -np.inf)
        with_file.close()
        np.testing.assert_allclose(boxes, found[-1]["boxes"][0], atol=1e-3)
        np.testing.assert_allclose(scores, found[-1]["scores"][0], atol=1e-6)
    for other in found[1:]:
        np.testing.assert_allclose(other["boxes"], found[0]["boxes"], atol=1e-3)
        np.testing.assert_allclose(other["scores"], found[0]["scores"], atol=1e-6)


def test_the_bundle_is_verified_and_opened_with_darknet_s_threshold(tmp_path: Path) -> None:
    file = write_heads(tmp_path / "yolov3.onnx")
    assert main(["import", str(file), "--decode", "detector", "-o", str(tmp_path / "y.edgepose")]) == 0
    detector = open_detector(tmp_path / "y.edgepose")
    found = detector(np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    detector.close()
    assert len(found.scores) > 0 and found.scores.min() >= 0.5
    from edgepose.bundle.bundle import open_bundle

    assert verify(open_bundle(tmp_path / "y.edgepose"), ("onnxruntime",)).passed


@pytest.mark.parametrize("exchange", [("Div (rgb, white)", "Identity (rgb)"), ("low = Sub", "low = Add")])
def test_a_graph_that_differs_from_its_file_is_no_bundle(
    exchange: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_UNIT_PLANES", "_CORNERS"):
        monkeypatch.setattr(wrap, name, getattr(wrap, name).replace(*exchange))
    file = write_decoded(tmp_path / "yolov3.onnx")
    with pytest.raises(CheckError, match="does not find the same persons as the file"):
        import_detector(file, tmp_path / "x.edgepose")
    assert not (tmp_path / "x.edgepose").exists()


#: The inputs and outputs of ``yolov3-10.onnx`` of ONNX's model zoo.
ZOO = """
<ir_version: 5, opset_import: ["": 10]>
zoo (float[N, 3, H, W] input_1, float[N, 2] image_shape)
    => (float[1, B, 4] boxes, float[1, 80, B] scores, int64[M, 3] indices)
<int64[1] most = {20}, float[1] overlap = {0.5}, float[1] least = {0.5}>
{
    boxes = Identity (some_boxes)
    scores = Identity (some_scores)
    indices = NonMaxSuppression (boxes, scores, most, overlap, least)
}
"""


def test_non_maximum_suppression_inside_is_refused_with_a_way_out(tmp_path: Path) -> None:
    arrays = {"some_boxes": np.zeros((1, 9, 4), np.float32), "some_scores": np.zeros((1, 80, 9), np.float32)}
    file = save(ZOO, arrays, tmp_path / "zoo.onnx")
    for call in (lambda: import_detector(file, tmp_path / "x.edgepose"), lambda: open_detector(file)):
        with pytest.raises(UsageError, match=r"takes more than pictures .* edgepose export yolov3 --weights"):
            call()
