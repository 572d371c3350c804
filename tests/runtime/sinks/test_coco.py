"""COCO results, read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.pose import People
from edgepose.core.skeletons import COCO17, CROWDPOSE14, LSP14, MPII16, Skeleton
from edgepose.runtime.sinks import CocoSink

from .jobs import TWO, job


@pytest.mark.parametrize(
    ("inputs", "name", "image_id"),
    [
        (["000000000139.jpg", "7.jpg"], "000000000139.jpg", 139),
        (["photo.jpg"], "photo.jpg", 7),
        (["139.jpg", "photo.jpg"], "139.jpg", 7),  # the 140th file of the folder may be the one without a number
        (["139.jpg", "0139.png"], "139.jpg", 7),
        (["a/139.jpg", "b/139.jpg"], "139.jpg", 7),
        (["0001.mp4"], "0001_000007", 7),
        ([], "live_000007", 7),
    ],
)
def test_coco_results(tmp_path: Path, inputs: list[str], name: str, image_id: int) -> None:
    sink = CocoSink(tmp_path / "out.json", [Path(file) for file in inputs], COCO17)
    sink.write(job(7, name=name, people=TWO))
    sink.close()
    results = json.loads((tmp_path / "out.json").read_text())
    assert len(results) == 2
    assert results[0] == {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": [10.123, 20, 0.9, 30, 40.5, 0.7],
        "score": 0.8,
        "bbox": [5, 6, 40, 60],
    }


def test_coco_results_of_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "out.json", Path("-")):
        sink = CocoSink(path, [], COCO17)
        sink.write(job(0))
        sink.close()
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(capfd.readouterr().out) == []


def test_scores_are_clipped(tmp_path: Path) -> None:
    sink = CocoSink(tmp_path / "x", [], COCO17)
    sink.write(job(0, people=People(np.zeros((1, 4)), np.array([[[1, 2, 1.5], [3, 4, -0.25]]], np.float32))))
    sink.write(job(1, people=People(np.zeros((1, 4)), np.array([[[1, 2, 1.5], [3, 4, 1.25]]], np.float32))))
    sink.close()
    one, two = json.loads((tmp_path / "x").read_text())
    assert (one["score"], one["keypoints"]) == (0.625, [1, 2, 1, 3, 4, 0])
    assert (two["score"], two["keypoints"]) == (1.0, [1, 2, 1, 3, 4, 1])


@pytest.mark.parametrize("skeleton", [LSP14, MPII16, CROWDPOSE14])
def test_other_joints_than_coco_s_are_refused(tmp_path: Path, skeleton: Skeleton) -> None:
    count = len(skeleton.joints)
    message = (
        rf"skeleton is {skeleton.name} with {count} joints, expected the joints of coco17: save JSON lines instead"
    )
    with pytest.raises(UsageError, match=message):
        CocoSink(tmp_path / "x", [], skeleton)
    CocoSink(tmp_path / "x", [], replace(COCO17, name="the same joints"))


def test_without_a_frame_an_older_file_stays(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("older")
    CocoSink(tmp_path / "b.json", [], COCO17).close()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("b.json", "older")]


def test_a_full_device_is_one_sentence() -> None:
    sink = CocoSink(Path("/dev/full"), [], COCO17)
    with pytest.raises(UsageError, match="cannot write /dev/full: No space left on device"):
        sink.write(job(0, people=TWO))
        sink.close()
    sink.close()


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*file/out: Not a directory"):
        CocoSink(tmp_path / "file" / "out", [], COCO17)
