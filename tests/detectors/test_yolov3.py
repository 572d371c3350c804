"""YOLOv3's layouts by value: anchors, grids and decoding as its paper and configuration print them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from edgepose.backends.session import Arrays
from edgepose.bundle.contract import TensorSpec
from edgepose.core.errors import UsageError
from edgepose.detectors.detector import NetworkDetector
from edgepose.detectors.kinds import KINDS
from edgepose.detectors.yolov3 import YOLOV3, count_boxes, decode_heads, decode_rows
from edgepose.detectors.yolox import YOLOX, yolox_cells

FLOAT = np.dtype(np.float32)
SIZE = (64, 96)
CLASSES = 2
#: darknet's cfg/yolov3.cfg: anchors = 10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326, and the
#: masks 6,7,8 at stride 32, 3,4,5 at 16 and 0,1,2 at 8.
CFG = {
    32: [(116, 90), (156, 198), (373, 326)],
    16: [(30, 61), (62, 45), (59, 119)],
    8: [(10, 13), (16, 30), (33, 23)],
}


class FakeYolov3:
    """Answers with given outputs, and keeps what it was fed."""

    backend = "fake"

    def __init__(self, outputs: Mapping[str, np.ndarray], batch: int | None = 1) -> None:
        self.inputs = (TensorSpec("images", (batch, 3, *SIZE), FLOAT),)
        self.outputs = tuple(
            TensorSpec(name, (batch, *array.shape[1:]), array.dtype) for name, array in outputs.items()
        )
        self.answer = dict(outputs)
        self.fed: np.ndarray | None = None

    def run(self, feeds: Arrays) -> Arrays:
        self.fed = feeds["images"]
        return self.answer

    def close(self) -> None:
        pass


def heads(fill: float = -20.0) -> dict[str, np.ndarray]:
    """Raw heads in which nobody is found; in another order than that of the strides."""
    shapes = {stride: (1, 3 * (5 + CLASSES), SIZE[0] // stride, SIZE[1] // stride) for stride in (8, 32, 16)}
    return {f"at{stride}": np.full(shape, fill, np.float32) for stride, shape in shapes.items()}


def put(raw: dict[str, np.ndarray], stride: int, anchor: int, row: int, column: int, *values: float) -> None:
    raw[f"at{stride}"][0, 7 * anchor : 7 * anchor + len(values), row, column] = values


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("stride", CFG)
@pytest.mark.parametrize("anchor", range(3))
def test_each_anchor_of_the_configuration_has_its_place(stride: int, anchor: int) -> None:
    raw = heads()
    put(raw, stride, anchor, 1, 2, 0, 0, 0, 0, 3, 2)
    width, height = CFG[stride][anchor]
    x, y = 2.5 * stride, 1.5 * stride  # the middle of the third cell of the second row
    boxes, scores = YOLOV3.decode(raw, SIZE, 0.5)
    np.testing.assert_allclose(boxes, [[x - width / 2, y - height / 2, x + width / 2, y + height / 2]], rtol=1e-6)
    np.testing.assert_allclose(scores, [sigmoid(3) * sigmoid(2)], rtol=1e-5)


def test_a_box_is_decoded_as_the_paper_prints_it() -> None:
    """b_x = sigmoid(t_x) + c_x, b_w = p_w exp(t_w), in cells and anchors (YOLOv3, section 2.1)."""
    raw = heads()
    put(raw, 16, 1, 3, 4, 1.0, -1.0, 0.5, -0.25, 4, 3, 20)  # another class is more certain: persons are asked for
    boxes, scores = YOLOV3.decode(raw, SIZE, 0.5)
    # By hand: 16 (4 + 0.7310586) = 75.69694, 16 (3 + 0.2689414) = 52.30306, 62 exp(0.5) = 102.22072, 45 exp(-0.25) =
    # 35.04604; 0.9820138 * 0.9525741 = 0.9354409.
    np.testing.assert_allclose(boxes, [[24.58658, 34.78004, 126.80730, 69.82608]], atol=1e-4)
    np.testing.assert_allclose(scores, [0.9354409], atol=1e-6)
    assert len(YOLOV3.decode(raw, SIZE, 0.936)[0]) == 0


def test_boxes_come_by_stride_anchor_row_and_column() -> None:
    places = [(32, 0, 0, 1), (32, 2, 1, 0), (16, 0, 2, 5), (8, 1, 0, 3), (8, 1, 7, 0)]
    raw = heads()
    for number, place in enumerate(places):
        put(raw, *place, 0, 0, 0, 0, 9, float(number))
    scores = decode_heads([raw[f"at{stride}"][0] for stride in (32, 16, 8)], 0.1)[1]
    np.testing.assert_allclose(scores, [sigmoid(9) * sigmoid(number) for number in range(len(places))], rtol=1e-5)
    assert decode_heads([raw[f"at{stride}"][0] for stride in (32, 16, 8)], -np.inf)[0].shape == (378, 4)


def test_rows_are_centre_size_objectness_and_classes() -> None:
    rows = np.array([[50, 40, 20, 30, 0.9, 0.8, 0.1], [10, 10, 4, 4, 0.9, 0.5, 1.0]], np.float32)
    boxes, scores = decode_rows(rows, 0.5)
    np.testing.assert_allclose(boxes, [[40, 25, 60, 55]])
    np.testing.assert_allclose(scores, [0.72], rtol=1e-6)


def test_the_network_is_fed_rgb_from_0_to_1() -> None:
    session = FakeYolov3(heads())
    NetworkDetector(session, YOLOV3)(np.full((32, 32, 3), (255, 51, 0), np.uint8))
    assert session.fed is not None and session.fed.dtype == np.float32 and session.fed.shape == (1, 3, 64, 96)
    np.testing.assert_allclose(session.fed[0, :, 5, 5], [1, 0.2, 0], rtol=1e-6)
    np.testing.assert_allclose(session.fed[0, :, 5, 90], 114 / 255, rtol=1e-6)


@pytest.mark.parametrize(("source", "scale"), [((64, 96), 1), ((128, 192), 2), ((64, 48), 1), ((32, 32), 0.5)])
def test_boxes_come_back_in_source_pixels(source: tuple[int, int], scale: float) -> None:
    raw = heads()
    put(raw, 8, 0, 3, 2, 0, 0, 0, 0, 9, 9)  # 10 x 13 around (20, 28)
    found = NetworkDetector(FakeYolov3(raw), YOLOV3)(np.zeros((*source, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, np.array([[15, 21.5, 25, 34.5]]) * scale, atol=1e-5)


def test_darknet_s_threshold_is_the_default() -> None:
    raw = heads()
    put(raw, 8, 0, 3, 2, 0, 0, 0, 0, 9, 0.01)
    put(raw, 8, 0, 7, 9, 0, 0, 0, 0, 9, -0.01)
    assert len(NetworkDetector(FakeYolov3(raw), YOLOV3)(np.zeros((64, 96, 3), np.uint8)).boxes) == 1


def rows(count: int = 378, values: int = 7) -> dict[str, np.ndarray]:
    return {"output": np.zeros((1, count, values), np.float32)}


def five_sides(stride: int) -> np.ndarray:
    return np.zeros((1, 3, SIZE[0] // stride, SIZE[1] // stride, 7), np.float32)


@pytest.mark.parametrize(
    "outputs",
    [heads(), rows(), rows(values=6), {**rows(), **{f"x{stride}": five_sides(stride) for stride in (8, 16, 32)}}],
)
@pytest.mark.parametrize("batch", [1, None])
def test_both_layouts_are_recognised_and_by_no_other_kind(outputs: dict[str, np.ndarray], batch: int | None) -> None:
    session = FakeYolov3(outputs, batch)
    assert [kind.name for kind in KINDS if kind.recognise(session) == SIZE] == ["yolov3"]
    NetworkDetector(session, YOLOV3)(np.zeros((64, 96, 3), np.uint8))


def test_a_number_of_boxes_that_the_file_leaves_open_is_found_out() -> None:
    """Both kinds list boxes alike: YOLOX one per cell, YOLOv3 three."""
    for count, name in ((378, "yolov3"), (len(yolox_cells(SIZE)), "yolox"), (377, None)):
        session = FakeYolov3(rows(count))
        session.outputs = (TensorSpec("output", (None, None, 7), FLOAT),)
        assert next((kind.name for kind in KINDS if kind.recognise(session)), None) == name
    assert YOLOX.recognise(FakeYolov3(rows())) is None


HEADS = heads()
OTHERS = {
    "classes differ": {**HEADS, "at8": np.zeros((1, 24, 8, 12), np.float32)},
    "no class": {name: array[:, :15] for name, array in HEADS.items()},
    "no three anchors": {name: array[:, :20] for name, array in HEADS.items()},
    "two heads, as yolov3-tiny": {name: HEADS[name] for name in ("at32", "at16")},
    "four heads": {**HEADS, "more": HEADS["at8"]},
    "channels last": {name: array.transpose(0, 2, 3, 1) for name, array in HEADS.items()},
    "five sides alone": {f"x{stride}": five_sides(stride) for stride in (8, 16, 32)},
    "too few boxes": rows(377),
    "no class in a row": rows(values=5),
    "boxes after their values": {"output": np.zeros((1, 7, 378), np.float32)},
    "half precision": {name: array.astype(np.float16) for name, array in rows().items()},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_layouts_are_refused(name: str) -> None:
    with pytest.raises(
        UsageError, match=r"got inputs images .* outputs .*; expected YOLOv3: input float32 \(1, 3, h, w"
    ):
        NetworkDetector(FakeYolov3(OTHERS[name]), YOLOV3)


def test_the_number_of_boxes_is_that_of_the_paper_s_size() -> None:
    assert count_boxes((416, 416)) == 3 * (13 * 13 + 26 * 26 + 52 * 52) == 10647
    assert count_boxes((608, 608)) == 22743
