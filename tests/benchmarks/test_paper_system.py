"""The YOLOv3 with random weights: its file is read as it was written, and it finds what the benchmarks need."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("skimage")
pytest.importorskip("onnxscript")

from edgepose.core.boxes import nms
from edgepose.export.from_onnx import golden_pictures
from edgepose.models.yolov3 import PersonGraph, YOLOv3, load_darknet

SIZE, WIDTH = (96, 96), 4


@pytest.fixture
def lively(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("lively_yolov3")


def test_a_few_boxes_are_persons_and_the_weight_file_gives_the_same(lively: ModuleType, tmp_path: Path) -> None:
    pictures = golden_pictures(SIZE)
    network = lively.lively_yolov3(pictures, width=WIDTH)
    again = YOLOv3(width=WIDTH).eval()
    load_darknet(again, lively.write_weights(network, tmp_path / "x.weights"))
    with torch.inference_mode():
        boxes, scores = (part.numpy() for part in PersonGraph(network)(torch.from_numpy(pictures)))
        np.testing.assert_array_equal(PersonGraph(again)(torch.from_numpy(pictures))[1], scores)
    assert ((scores >= 0.4).sum(axis=1) > 0).all() and (scores >= 0.4).mean() < 0.05
    assert 2 < np.median(boxes[..., 2] - boxes[..., 0]) < 200


def test_one_person_as_large_as_the_frame_is_left(lively: ModuleType) -> None:
    system = importlib.import_module("paper_system")
    pictures = golden_pictures(SIZE)[:2]
    network = system.see_one_person(lively.lively_yolov3(pictures, width=WIDTH))
    with torch.inference_mode():
        boxes, scores = (part.numpy() for part in PersonGraph(network)(torch.from_numpy(pictures)))
    for found, certain in zip(boxes.clip(0, 96), scores, strict=True):
        chosen = certain >= 0.5
        assert chosen.sum() == 9  # one anchor in 3 x 3 cells
        kept = found[chosen][nms(found[chosen], certain[chosen])]
        np.testing.assert_array_equal(kept, [[0, 0, 96, 96]])
