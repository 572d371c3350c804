"""Detectors by value: letterbox, decoding, NMS, the way back, and real persons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgepose
from edgepose.backends.session import Arrays
from edgepose.bundle.contract import TensorSpec
from edgepose.core.boxes import box_iou, nms
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.images import fitted_size, letterbox, read_image
from edgepose.core.sample_photos import PEOPLE, load_photo
from edgepose.detectors.detector import NetworkDetector
from edgepose.detectors.kinds import KINDS, open_detector
from edgepose.detectors.peaks import PEAKS
from edgepose.detectors.yolox import YOLOX, decode_yolox, yolox_cells

FLOAT = np.dtype(np.float32)
CELLS = 8 * 16 + 4 * 8 + 2 * 4  # of a 64 x 128 input


class FakeYolox:
    """Answers with given predictions, and keeps what it was fed."""

    backend = "fake"

    def __init__(self, predictions: np.ndarray | None = None) -> None:
        self.inputs = (TensorSpec("images", (1, 3, 64, 128), FLOAT),)
        self.outputs = (TensorSpec("output", (1, CELLS, 85), FLOAT),)
        self.predictions = predictions
        self.fed: np.ndarray | None = None
        self.closed = False

    def run(self, feeds: Arrays) -> Arrays:
        self.fed = feeds["images"]
        return {"output": self.predictions}

    def close(self) -> None:
        self.closed = True


def prediction(box: tuple[float, float, float, float], objectness: float, person: float, cell: int) -> np.ndarray:
    """Predictions that hold one box, xyxy in input pixels, said by one cell; a loud other class must not matter."""
    raw = np.zeros((CELLS, 85), np.float32)
    left, top, stride = yolox_cells((64, 128))[cell]
    x1, y1, x2, y2 = box
    centre = ((x1 + x2) / 2 - left) / stride, ((y1 + y2) / 2 - top) / stride
    raw[cell, :6] = *centre, np.log((x2 - x1) / stride), np.log((y2 - y1) / stride), objectness, person
    raw[cell, 6] = 1
    return raw


def test_cells_follow_the_strides_row_by_row() -> None:
    cells = yolox_cells((64, 128))
    assert cells.shape == (CELLS, 3)
    assert cells[[0, 1, 16, 127, 128, 136, 160]].tolist() == [
        *([0, 0, 8], [8, 0, 8], [0, 8, 8], [120, 56, 8]),
        *([0, 0, 16], [0, 16, 16], [0, 0, 32]),
    ]


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        ((720, 1280), (416, 416), (234, 416)),
        ((640, 427), (416, 416), (416, 278)),
        ((10, 20), (64, 128), (64, 128)),
        ((1, 5000), (416, 416), (1, 416)),
    ],
)
def test_fitted_size(source: tuple[int, int], size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_size(source, size) == expected


def test_letterbox_is_top_left_on_grey() -> None:
    canvas = letterbox(np.full((50, 50, 3), 7, np.uint8), (64, 128))
    assert (canvas[:, :64] == 7).all()
    assert (canvas[:, 64:] == 114).all()


def test_network_is_fed_bgr_planes() -> None:
    session = FakeYolox(np.zeros((1, CELLS, 85), np.float32))
    found = NetworkDetector(session, YOLOX)(np.full((32, 32, 3), (10, 20, 30), np.uint8))
    assert session.fed is not None
    assert (session.fed.dtype, session.fed.shape) == (np.float32, (1, 3, 64, 128))
    assert session.fed[0, :, 5, 5].tolist() == [30, 20, 10]
    assert session.fed[0, :, 5, 100].tolist() == [114, 114, 114]
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


@pytest.mark.parametrize("cell", [20, 140, 163])  # one of each stride
def test_decode_gives_the_box_that_was_put_in(cell: int) -> None:
    boxes, scores = decode_yolox(prediction((10, 20, 50, 60), 0.8, 0.9, cell), yolox_cells((64, 128)), 0.5)
    np.testing.assert_allclose(boxes, [[10, 20, 50, 60]], atol=1e-4)
    np.testing.assert_allclose(scores, [0.72], rtol=1e-6)


@pytest.mark.parametrize(
    ("source", "box", "expected"),
    [
        ((64, 128), (10, 20, 50, 60), (10, 20, 50, 60)),
        ((128, 256), (10, 20, 50, 60), (20, 40, 100, 120)),
        ((100, 100), (16, 32, 48, 64), (25, 50, 75, 100)),  # letterboxed to 64 x 64
        ((64, 128), (-20, -5, 50, 80), (0, 0, 50, 64)),  # over the border
    ],
)
def test_boxes_come_back_in_source_pixels(source: tuple[int, int], box: tuple, expected: tuple) -> None:
    detector = NetworkDetector(FakeYolox(prediction(box, 0.9, 0.9, 20)[None]), YOLOX)
    found = detector(np.zeros((*source, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [expected], atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.81], rtol=1e-6)


def test_each_kind_has_a_threshold_of_its_own() -> None:
    picture = np.zeros((64, 128, 3), np.uint8)
    yolox = FakeYolox(prediction((10, 20, 50, 60), 0.7, 0.5, 20)[None])
    peaks = FakePeaks([(10, 20, 50, 60)], [0.35])
    assert (len(NetworkDetector(yolox, YOLOX)(picture).boxes), len(NetworkDetector(peaks, PEAKS)(picture).boxes)) == (
        0,
        1,
    )
    assert len(NetworkDetector(yolox, YOLOX, threshold=0.3)(picture).boxes) == 1
    assert len(NetworkDetector(peaks, PEAKS, threshold=0.4)(picture).boxes) == 0


@pytest.mark.parametrize("threshold", [np.nan, -1, 2, -0.001, 1.001, np.inf, "0.5"])
def test_a_threshold_that_is_no_score_is_refused_before_anything_is_opened(threshold: object, tmp_path: Path) -> None:
    sentence = r"the detector's threshold is .*, expected a score from 0 to 1"
    with pytest.raises(UsageError, match=sentence):
        open_detector(tmp_path / "none.onnx", threshold=threshold)
    with pytest.raises(UsageError, match=sentence):
        NetworkDetector(FakeYolox(), YOLOX, threshold)


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 5), (0.45, 3), (0.5, 2), (1.0, 0)])
def test_the_threshold_that_was_asked_for_is_the_least_score_that_stays(threshold: float, count: int) -> None:
    boxes = [(20.0 * i, 0.0, 20.0 * i + 10, 30.0) for i in range(5)]
    detector = NetworkDetector(FakePeaks(boxes, [0.9, 0.5, 0.46, 0.44, 0.0]), PEAKS, threshold)
    assert len(detector(np.zeros((64, 128, 3), np.uint8)).boxes) == count


@pytest.mark.parametrize(
    ("picture", "got"),
    [
        (np.zeros((32, 32), np.uint8), r"uint8 \(32, 32\)"),
        (np.zeros((32, 32, 1), np.uint8), r"uint8 \(32, 32, 1\)"),
        (np.zeros((32, 32, 3), np.float32), r"float32 \(32, 32, 3\)"),
        (np.zeros((0, 32, 3), np.uint8), "empty"),
    ],
)
@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_not_a_picture_is_refused(kind: int, picture: np.ndarray, got: str) -> None:
    session = (FakeYolox(np.zeros((1, CELLS, 85), np.float32)), FakePeaks([], []))[kind]
    detector = NetworkDetector(session, (YOLOX, PEAKS)[kind])
    with pytest.raises(UsageError, match=f"image is {got}"):
        detector(picture)
    assert session.fed is None


def test_every_kind_knows_its_own_networks_only() -> None:
    assert [kind.name for kind in KINDS] == ["yolox", "yolov3", "peaks"]
    sessions = [FakeYolox(), FakePeaks([], [])]
    assert [[kind.recognise(session) for kind in KINDS] for session in sessions] == [
        [(64, 128), None, None],
        [None, None, (64, 128)],
    ]


def test_the_cells_that_are_shared_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        yolox_cells((64, 128))[0] = 1


def test_threshold_and_boxes_outside_the_picture() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)  # the right half of the input is padding
    weak = NetworkDetector(FakeYolox(prediction((10, 20, 50, 60), 0.6, 0.6, 20)[None]), YOLOX)
    outside = NetworkDetector(FakeYolox(prediction((70, 20, 100, 60), 0.9, 0.9, 20)[None]), YOLOX)
    assert len(weak(picture).boxes) == 0
    assert len(outside(picture).boxes) == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_an_empty_picture(wrong: float) -> None:
    raw = np.zeros((1, CELLS, 85), np.float32)
    raw[0, 7, 4] = wrong
    with pytest.raises(CheckError, match="the detector gave NaN or infinity on backend fake"):
        NetworkDetector(FakeYolox(raw), YOLOX)(np.zeros((64, 64, 3), np.uint8))


def test_nms_keeps_the_best_of_each_pile() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 5.5], [100, 100, 110, 110]], float)
    scores = np.array([0.5, 0.9, 0.7, 0.6, 0.1])
    # IoU with box 1: box 0 is 0.818, box 3 is 0.469.
    assert nms(boxes, scores, 0.5).tolist() == [1, 2, 3, 4]
    assert nms(boxes, scores, 0.4).tolist() == [1, 2, 4]
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_iou_by_value() -> None:
    a = np.array([[0, 0, 4, 4], [0, 0, 0, 0]], float)
    b = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [8, 8, 9, 9]], float)
    np.testing.assert_allclose(box_iou(a, b), [[1, 4 / 28, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([("images", (1, 3, 64, 128), "uint8")], [("output", (1, CELLS, 85), "float32")]),
        ([("images", (1, 64, 128, 3), "float32")], [("output", (1, CELLS, 85), "float32")]),
        ([("images", (1, 3, None, None), "float32")], [("output", (1, None, 85), "float32")]),
        ([("images", (1, 3, 64, 128), "float32")], [("output", (1, 84, 3549), "float32")]),
        ([("images", (1, 3, 64, 128), "float32")], [("output", (1, CELLS + 1, 85), "float32")]),
        ([("images", (1, 3, 64, 128), "float32")], [("boxes", (1, 10, 4), "float32"), ("s", (1, 10), "float32")]),
    ],
)
def test_networks_that_are_not_yolox_are_refused(inputs: list, outputs: list) -> None:
    session: Any = FakeYolox()
    session.inputs = tuple(TensorSpec(name, shape, np.dtype(kind)) for name, shape, kind in inputs)
    session.outputs = tuple(TensorSpec(name, shape, np.dtype(kind)) for name, shape, kind in outputs)
    with pytest.raises(UsageError, match=r"got inputs images .* outputs .*; expected YOLOX: input float32"):
        NetworkDetector(session, YOLOX)


class FakePeaks:
    """A network that decodes its own boxes: answers with given ones, and keeps what it was fed."""

    backend = "fake"

    def __init__(self, boxes: list[tuple], scores: list[float]) -> None:
        count = max(len(scores), 1)
        self.inputs = (TensorSpec("images", (None, 64, 128, 3), np.dtype(np.uint8)),)
        self.outputs = (TensorSpec("boxes", (None, count, 4), FLOAT), TensorSpec("scores", (None, count), FLOAT))
        self.boxes, self.scores = np.array(boxes, np.float32).reshape(1, -1, 4), np.array(scores, np.float32)[None]
        self.fed: np.ndarray | None = None

    def run(self, feeds: Arrays) -> Arrays:
        self.fed = feeds["images"]
        return {"boxes": self.boxes, "scores": self.scores}

    def close(self) -> None:
        pass


def test_peak_network_is_fed_the_letterboxed_picture_as_it_is() -> None:
    session = FakePeaks([], [])
    found = NetworkDetector(session, PEAKS)(np.full((32, 32, 3), (10, 20, 30), np.uint8))
    assert session.fed is not None
    assert (session.fed.dtype, session.fed.shape) == (np.uint8, (1, 64, 128, 3))
    assert session.fed[0, 5, 5].tolist() == [10, 20, 30]
    assert session.fed[0, 5, 100].tolist() == [114, 114, 114]
    assert (found.boxes.shape, found.scores.shape) == ((0, 4), (0,))


def test_peaks_come_back_in_source_pixels_the_best_of_each_pile() -> None:
    boxes = [(10, 20, 50, 60), (11, 20, 50, 60), (60, 0, 80, 30), (90, 0, 99, 9), (-9, -9, 20, 70)]
    detector = NetworkDetector(FakePeaks(boxes, [0.6, 0.9, 0.5, 0.39, 0.45]), PEAKS, threshold=0.4)
    found = detector(np.zeros((128, 256, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[22, 40, 100, 120], [120, 0, 160, 60], [0, 0, 40, 128]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.45])
    assert found.boxes.dtype == np.float64


@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_peaks_that_are_not_finite_are_not_an_empty_picture(part: str) -> None:
    session = FakePeaks([(0, 0, 9, 9)], [0.1])
    getattr(session, part).flat[0] = np.nan
    with pytest.raises(CheckError, match="the detector gave NaN or infinity on backend fake"):
        NetworkDetector(session, PEAKS)(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("taken", "boxes", "scores"),
    [
        (("images", (None, 64, 128, 3), "float32"), (None, 100, 4), (None, 100)),
        (("images", (None, 3, 64, 128), "uint8"), (None, 100, 4), (None, 100)),
        (("images", (None, None, None, 3), "uint8"), (None, 100, 4), (None, 100)),
        (("images", (64, 128, 3), "uint8"), (None, 100, 4), (None, 100)),
        (("images", (None, 64, 128, 3), "uint8"), (None, 100, 5), (None, 100)),
        (("images", (None, 64, 128, 3), "uint8"), (None, 100, 4), (None, 50)),
        (("images", (None, 64, 128, 3), "uint8"), (None, 100, 4), (None, 100, 1)),
    ],
)
def test_networks_whose_peaks_cannot_be_read_are_refused(taken: tuple, boxes: tuple, scores: tuple) -> None:
    session = FakePeaks([], [])
    session.inputs = (TensorSpec(taken[0], taken[1], np.dtype(taken[2])),)
    session.outputs = (TensorSpec("boxes", boxes, FLOAT), TensorSpec("scores", scores, FLOAT))
    with pytest.raises(UsageError, match=r"got inputs images .* outputs boxes .*; expected input uint8 \(N, h, w, 3\)"):
        NetworkDetector(session, PEAKS)


def test_the_shipped_detector_gives_the_same_people_on_every_backend() -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("skimage")
    detectors = [open_detector("person_lite", backend, threshold=0.2) for backend in ("onnxruntime", "openvino")]
    assert all(detector.kind is PEAKS for detector in detectors)
    for name in PEOPLE:
        photo = load_photo(name)
        first, second = (detector(photo) for detector in detectors)
        assert len(first.boxes) > 0
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)
        np.testing.assert_allclose(first.boxes, second.boxes, atol=0.1)


@pytest.mark.slow
def test_the_shipped_detector_finds_athletes_that_it_did_not_learn_from(shared: Path) -> None:
    pytest.importorskip("scipy")
    from edgepose.data import load_data

    detector = open_detector("person_lite")
    samples = load_data(f"lsp:{shared / 'data/lspet14'}", "val").samples[:40]
    found = [detector(read_image(sample.image)) for sample in samples]
    overlaps = [box_iou(s.box[None], f.boxes).max(initial=0) for s, f in zip(samples, found, strict=True)]
    recall = np.mean(np.array(overlaps) > 0.5)
    assert recall > 0.5, f"recall {recall:.2f}"


def test_detector_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the detector is empty: expected a bundle, an ONNX file or person_lite"):
        open_detector("")
    with pytest.raises(UsageError, match="does not exist"):
        open_detector(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_text("not a graph")
    with pytest.raises(UsageError, match="not an ONNX graph"):
        open_detector(tmp_path / "bad.onnx")


@pytest.mark.parametrize("detector", ["person_lite", "file"])
def test_a_file_has_no_precision_to_choose(detector: str, tmp_path: Path) -> None:
    name = tmp_path / "none.onnx" if detector == "file" else detector
    with pytest.raises(
        UsageError, match=r"is an ONNX file with one precision, got precision int8: leave it out, or make a bundle with"
    ):
        open_detector(name, precision="int8")


def test_a_graph_that_is_no_detector_is_told_what_is_expected() -> None:
    pose = Path(edgepose.__file__).parent / "assets" / "ditn_lite.edgepose" / "pose.onnx"
    with pytest.raises(
        UsageError,
        match=r"detector .*pose.onnx: got inputs images uint8 .*; expected YOLOX: .*; or input uint8 .* outputs",
    ):
        open_detector(pose)


def test_real_persons_are_found_where_people_drew_them(shared: Path) -> None:
    """Large persons in twelve COCO images. YOLOX-nano was measured at AP50 0.64 over persons of all sizes."""
    truth = json.loads((shared / "data/coco_mix/annotations/person_keypoints_val.json").read_text())
    large: dict[int, list[list[float]]] = {}
    for label in truth["annotations"]:
        x, y, w, h = label["bbox"]
        if not label["iscrowd"] and w * h > 96**2:
            large.setdefault(label["image_id"], []).append([x, y, x + w, y + h])
    detector = open_detector(shared / "data/models/yolox_nano/yolox_nano.onnx")
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    overlaps = []
    for image_id in sorted(large)[:12]:
        found = detector(read_image(shared / "data/coco_mix/val" / names[image_id]))
        assert (np.diff(found.scores) <= 0).all()
        overlaps += box_iou(np.array(large[image_id]), found.boxes).max(axis=1, initial=0).tolist()
    recall = np.mean(np.array(overlaps) > 0.5)
    assert recall > 0.8, f"recall {recall:.2f} of {len(overlaps)} persons"
    assert np.median(overlaps) > 0.8, f"median IoU {np.median(overlaps):.2f}"
