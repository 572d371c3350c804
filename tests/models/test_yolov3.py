"""YOLOv3: weight files read as darknet writes them, boxes as the reference decodes and suppresses them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F

from edgepose.core.errors import UsageError
from edgepose.models import build_model
from edgepose.models.checkpoint import ModelSpec
from edgepose.models.yolov3 import YOLOv3, decode_maps, load_darknet

from ..doubles.darknet_boxes import MOST, suppress, to_source

CLASSES, WIDTH = 3, 4


def darknet_layers(width: int, outputs: int) -> list[tuple]:
    """The layers of ``yolov3.cfg`` in their order: (kind, ...), numbered from 0 as its routes count them."""
    layers: list[tuple] = [("conv", width, 3, 1)]
    channels = width
    for blocks in (1, 2, 8, 8, 4):
        channels *= 2
        layers.append(("conv", channels, 3, 2))
        for _ in range(blocks):
            layers += [("conv", channels // 2, 1, 1), ("conv", channels, 3, 1), ("shortcut", -3)]
    for route in (None, 61, 36):
        if route is not None:
            channels //= 2
            layers += [("route", -4), ("conv", channels // 2, 1, 1), ("upsample",), ("route", -1, route)]
        layers += 3 * [("conv", channels // 2, 1, 1), ("conv", channels, 3, 1)]
        layers += [("linear", outputs), ("yolo",)]
    return layers


def run_darknet(layers: list[tuple], images: torch.Tensor) -> tuple[list[torch.Tensor], np.ndarray]:
    """Draw weights layer by layer as a weight file holds them; return the predictions, and the file's floats."""
    rng = np.random.default_rng(3)
    floats: list[np.ndarray] = []
    done: list[torch.Tensor] = []
    yolo = []

    def draw(*shape: int, about: float = 0.0) -> torch.Tensor:
        scale = 0.1 if len(shape) == 1 else 1.5 / np.sqrt(np.prod(shape[1:]))
        floats.append((about + scale * rng.uniform(-1, 1, shape)).astype("<f4"))
        return torch.from_numpy(floats[-1].copy())

    for number, (kind, *arguments) in enumerate(layers):
        x = done[-1] if done else images
        if kind == "conv":
            channels, kernel, stride = arguments
            bias, weight, mean, var = draw(channels), draw(channels, about=1), draw(channels), draw(channels, about=1)
            x = F.conv2d(x, draw(channels, x.shape[1], kernel, kernel), stride=stride, padding=kernel // 2)
            x = F.leaky_relu(F.batch_norm(x, mean, var, weight, bias, eps=1e-5), 0.1)
        elif kind == "linear":
            bias = draw(*arguments)
            x = F.conv2d(x, draw(*arguments, x.shape[1], 1, 1), bias)
        elif kind == "shortcut":
            x = x + done[arguments[0]]
        elif kind == "route":
            x = torch.cat([done[number + at if at < 0 else at] for at in arguments], dim=1)
        elif kind == "upsample":
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        else:
            yolo.append(x)
        done.append(x)
    return yolo, np.concatenate([array.ravel() for array in floats])


def write_weights(path: Path, values: np.ndarray, version: tuple[int, int, int] = (0, 2, 0)) -> Path:
    seen = struct.pack("<q" if version[1] >= 2 else "<i", 32013312)
    path.write_bytes(struct.pack("<3i", *version) + seen + values.tobytes())
    return path


IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def darknet() -> tuple[list[torch.Tensor], np.ndarray]:
    """What a small network gives for ``IMAGES``, and the floats of its weight file."""
    return run_darknet(darknet_layers(WIDTH, 3 * (5 + CLASSES)), IMAGES)


@pytest.mark.parametrize("version", [(0, 2, 0), (0, 1, 0)])
def test_a_weight_file_means_what_it_means_to_darknet(
    darknet: tuple[list[torch.Tensor], np.ndarray], version: tuple[int, int, int], tmp_path: Path
) -> None:
    network = YOLOv3(CLASSES, WIDTH).eval()
    load_darknet(network, write_weights(tmp_path / "x.weights", darknet[1], version))
    with torch.inference_mode():
        maps = network.maps(IMAGES)
        assert torch.equal(network(IMAGES), decode_maps(maps))
    assert [tuple(m.shape[2:]) for m in maps] == [(2, 3), (4, 6), (8, 12)]
    for got, want in zip(maps, darknet[0], strict=True):
        assert float(want.std(dim=(2, 3)).min()) > 1e-3
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_public_weight_file_has_the_size_of_the_network() -> None:
    with torch.device("meta"):
        network = build_model("yolov3")
    assert sum(p.numel() for p in network.parameters()) == 61_949_149
    floats = sum(value.numel() for key, value in network.state_dict().items() if "num_batches" not in key)
    assert 20 + 4 * floats == 248_007_048  # bytes of yolov3.weights
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in network.modules()) == 75
    assert network.eval()(torch.zeros(1, 3, 416, 416, device="meta")).shape == (1, 10647, 85)


#: Raw predictions of one cell (x, y, width, height, objectness, classes) and what PyTorch-YOLOv3 makes of them at
#: 416x416 (eriklindernoren/PyTorch-YOLOv3 @ 1d621c8, ``YOLOLayer``): stride, anchor, row, column, raw, decoded.
DECODED = [
    (32, 0, 5, 9, [0.0403, -0.1155, -0.6703, -0.3463, -3.7911, 1.9922, -0.6226], [304.32, 175.08, 59.34, 63.66]),
    (32, 1, 6, 12, [-0.0981, -1.0469, -0.2625, -0.8758, -4.4819, -1.1389, 1.1902], [399.22, 200.31, 119.98, 82.47]),
    (32, 2, 8, 2, [-2.4455, 1.6432, 0.2648, 0.2862, 1.1701, -4.5285, 1.8394], [66.55, 282.82, 486.06, 434.04]),
    (16, 0, 13, 6, [-1.3096, -0.9360, -1.0445, 0.1198, -4.7133, -1.1550, -0.0040], [99.40, 212.51, 10.56, 68.77]),
    (16, 1, 12, 22, [-2.4336, -0.8550, -0.9516, -0.0191, -9.6176, -0.1981, 0.8298], [353.29, 196.77, 23.94, 44.15]),
    (16, 2, 13, 23, [-0.3005, 0.8735, 0.2203, 0.0373, -9.2572, -3.4336, -1.0173], [374.81, 219.29, 73.54, 123.52]),
    (8, 0, 25, 50, [-0.5981, 0.3418, 0.4246, -0.4824, -9.3975, 1.5103, 1.0364], [402.84, 204.68, 15.29, 8.02]),
    (8, 1, 25, 47, [-0.6250, 0.4138, -0.2080, 0.1012, -8.0035, -1.4209, 2.8257], [378.79, 204.82, 13.00, 33.19]),
    (8, 2, 25, 44, [-0.1038, -0.9448, 0.1034, -0.0860, -9.1197, 2.4463, -0.4028], [355.79, 202.24, 36.60, 21.10]),
]
#: Objectness and the first two classes of the third of them.
DECODED_SCORES = [0.76317, 0.01068, 0.86287]


def test_boxes_are_decoded_as_by_the_public_implementation() -> None:
    maps = {stride: torch.full((1, 21, 416 // stride, 416 // stride), -9.0) for stride in (32, 16, 8)}
    for stride, anchor, row, column, raw, _ in DECODED:
        maps[stride][0, 7 * anchor : 7 * anchor + 7, row, column] = torch.tensor(raw)
    boxes = decode_maps(list(maps.values()))[0].numpy()
    assert boxes.shape == (10647, 7)
    first = {32: 0, 16: 507, 8: 507 + 2028}  # boxes of the coarser grids
    for stride, anchor, row, column, _, want in DECODED:
        side = 416 // stride
        box = boxes[first[stride] + (anchor * side + row) * side + column]
        np.testing.assert_allclose(box[:4], want, rtol=1e-4, atol=0.01)
        if (stride, anchor) == (32, 2):
            np.testing.assert_allclose(box[4:], DECODED_SCORES, atol=1e-4)


def test_suppression_removes_what_overlaps_by_more_than_the_limit() -> None:
    """Boxes of 10 x 10 moved by 3, 4 and 10: IoU 70 / 130 = 0.538, 60 / 140 = 0.429 and 0 with the best one.

    The second and the third are moved by 1 from each other: 90 / 110 = 0.818.
    """
    boxes = np.zeros((4, 6), np.float32)
    boxes[:, 0], boxes[:, 1:4] = [20, 23, 24, 30], [5, 10, 10]
    boxes[:, 4], boxes[:, 5] = [0.9, 0.8, 0.7, 0.5], 1
    found = suppress(boxes, confidence=0.25, overlap=0.45)
    np.testing.assert_allclose(found[:, [0, 4]], [[15, 0.9], [19, 0.7], [25, 0.5]], rtol=1e-6)
    assert suppress(boxes, confidence=0.25, overlap=0.54)[:, 0].tolist() == [15, 18, 25]
    assert suppress(boxes, confidence=0.5, overlap=0.54)[:, 0].tolist() == [15, 18], "at the confidence itself it goes"
    assert suppress(boxes, confidence=0.25, overlap=0.53)[:, 0].tolist() == [15, 19, 25], "0.538 is above the limit"
    boxes[0, 4:] = 1, 0.5
    assert 15 not in suppress(boxes, confidence=0.5, overlap=0.54)[:, 0], "so does a score at the confidence"
    boxes[0, 4], boxes[:, 5] = 0.9, 0.6
    assert len(suppress(boxes, confidence=0.45, overlap=0.54)) == 2, "0.9 * 0.6 and 0.8 * 0.6, not 0.7 * 0.6"


def test_boxes_leave_the_centred_padding_behind() -> None:
    """A picture of 480x640 fills the width of 416x416; 52 rows of padding lie above it (public ``rescale_boxes``)."""
    box = np.array([[35.76553, 81.93033, 468.04373, 498.444, 0.86806, 1]], np.float32)
    moved = to_source(box, (416, 416), (480, 640))
    np.testing.assert_allclose(moved, [[55.0239, 46.04666, 720.06726, 686.8369, 0.86806, 1]], rtol=1e-5)


#: Bytes of weight files that their authors publish.
PUBLISHED = {
    "yolov3-tiny": 35_434_956,
    "yolov3-spp": 252_209_544,
    "yolov4": 257_717_640,
    "yolov4-tiny": 24_251_276,
    "yolov2": 203_934_260,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_of_another_yolo_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.weights"
    with path.open("wb") as file:  # without the numbers: the size is looked at first
        file.write(struct.pack("<3iq", 0, 2, 5, 32013312))
        file.truncate(PUBLISHED[name])
    with pytest.raises(UsageError) as refused:
        load_darknet(YOLOv3(CLASSES, WIDTH), path)
    assert f"of another network, {PUBLISHED[name]:,} bytes, the size of {name}.weights" in str(refused.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.weights")
    with pytest.raises(UsageError, match=r"pipe.weights: is no file, expected a darknet .weights file"):
        load_darknet(YOLOv3(CLASSES, WIDTH), tmp_path / "pipe.weights")


def test_a_negative_variance_is_no_weight(darknet: tuple[list[torch.Tensor], np.ndarray], tmp_path: Path) -> None:
    values = darknet[1].copy()
    values[3 * WIDTH] = -0.5  # after bias, weight and mean of the first batch norm
    with pytest.raises(UsageError, match=r"hold a negative variance: expected a darknet .weights file of YOLOv3"):
        load_darknet(YOLOv3(CLASSES, WIDTH), write_weights(tmp_path / "x.weights", values))


BAD_FILES = {
    "short": (lambda data: data[:-4], "truncated, .* bytes where this YOLOv3 has"),
    "long": (lambda data: data + b"1234", "too long"),
    "empty": (lambda _: b"", "truncated, 0 bytes"),
    "header": (lambda data: data[:6], "truncated, 6 bytes"),
    "nan": (lambda data: data[:-4] + struct.pack("<f", float("nan")), "NaN or infinity"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_other_files_are_refused(darknet: tuple[list[torch.Tensor], np.ndarray], name: str, tmp_path: Path) -> None:
    spoil, message = BAD_FILES[name]
    network = YOLOv3(CLASSES, WIDTH)
    path = write_weights(tmp_path / "x.weights", darknet[1])
    path.write_bytes(spoil(path.read_bytes()))
    before = network.state_dict()["darknet.0.0.0.weight"].clone()
    with pytest.raises(UsageError, match=message):
        load_darknet(network, path)
    assert torch.equal(before, network.state_dict()["darknet.0.0.0.weight"])


@pytest.mark.parametrize("name", ["none.weights", "."])
def test_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a darknet .weights file"):
        load_darknet(YOLOv3(CLASSES, WIDTH), tmp_path / name)


def test_decoding_and_suppression_match_the_reference(reference) -> None:
    name = "yolov3_decode_nms.npz"
    golden = reference.load(name)
    boxes = decode_maps([torch.from_numpy(golden[key]) for key in ("raw_13", "raw_26", "raw_52")]).numpy()
    assert boxes.shape[1] == golden["decoded_n"]
    reference.match(name, boxes[:, golden["decoded_sample_idx"]], golden["decoded_sample"], rtol=1e-4)
    reference.match(name, boxes.sum(axis=1, dtype=np.float64), golden["decoded_sum_per_channel"], rtol=1e-4)
    for tag, confidence, overlap, classes in (("c25_i45", 0.25, 0.45, None), ("c15_i50", 0.15, 0.5, None)):
        check_boxes(reference, golden, boxes, tag, confidence=confidence, overlap=overlap, classes=classes)
    check_boxes(reference, golden, boxes, "c25_i45_cls0", confidence=0.25, overlap=0.45, classes=(0,))


def check_boxes(reference, golden, boxes: np.ndarray, tag: str, **limits) -> None:
    name = "yolov3_decode_nms.npz"
    for picture in range(len(boxes)):
        found = suppress(boxes[picture], **limits)
        want = golden[f"nms_{tag}_img{picture}"]
        reference.match(name, found[:, :4], want[:, :4], atol=1e-2)
        reference.match(name, found[:, 4], want[:, 4], atol=1e-5)
        reference.match(name, found[:, 5], want[:, 5])
        before = found.copy()
        rescaled = to_source(found, (416, 416), (480, 640))
        reference.match(name, rescaled[:, :4], golden[f"rescaled_480x640_{tag}_img{picture}"][:, :4], atol=1e-2)
        np.testing.assert_array_equal(before, found)


def test_suppression_without_boxes_and_with_too_many() -> None:
    nothing = suppress(np.zeros((7, 8), np.float32), confidence=0.5, overlap=0.5)
    assert nothing.shape == (0, 6)
    assert to_source(nothing, (416, 416), (480, 640)).shape == (0, 6)
    apart = np.zeros((MOST + 50, 6), np.float32)
    apart[:, 0], apart[:, 2:4], apart[:, 4:] = 10 * np.arange(MOST + 50), 5, 1
    assert len(suppress(apart, confidence=0.5, overlap=0.5)) == MOST


def test_classes_do_not_suppress_each_other_and_the_best_comes_first() -> None:
    boxes = np.zeros((3, 7), np.float32)
    boxes[:, :4] = [50, 50, 20, 40]
    boxes[:, 4:] = [[1, 0.6, 0.7], [1, 0.9, 0.2], [1, 0.3, 0.8]]
    found = suppress(boxes, confidence=0.5, overlap=0.5)
    np.testing.assert_allclose(found, [[40, 30, 60, 70, 0.9, 0], [40, 30, 60, 70, 0.8, 1]], rtol=1e-6)


def test_what_needs_heat_maps_refuses_it() -> None:
    with pytest.raises(UsageError, match="yolov3 finds persons and gives no heat-maps, as is needed here"):
        ModelSpec("yolov3", "coco17", (416, 416)).build()
    with pytest.raises(UsageError, match="yolov3 has no options, got mtl"):
        build_model("yolov3", mtl=True)
