"""COCO results and their average precision against HRNet's pipeline and pycocotools' reference numbers."""

import copy
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from edgepose.accuracy import coco as coco_module
from edgepose.accuracy.coco import CROWD_LEVELS, FIGURES, coco_figures, coco_results, crowd_figures, labels_of
from edgepose.accuracy.metrics import oks_nms, person_scores
from edgepose.core.errors import UsageError
from edgepose.core.skeletons import COCO17
from edgepose.data import load_data
from edgepose.data.samples import Label, PoseData
from tests.doubles.coco_root import make_root
from tests.doubles.hrnet_variants import soft_oks_nms

ALL = range(17)


def as_stats(figures):
    return [-1.0 if figures[name] is None else figures[name] / 100 for name in FIGURES]


def label(image_id, keypoints, area=106.0, **other):
    """A person with joints (J, 3) x, y, v."""
    keypoints = np.asarray(keypoints, np.float64)
    return Label(image_id, (0, 0, 20, 10), area, keypoints[:, :2], keypoints[:, 2] > 0, **other)


def split(*labels, crowding=None):
    pictures = {entry.image_id: Path(f"{entry.image_id}.jpg") for entry in labels}
    return PoseData(
        "coco", "coco17", [], Path("x.json"), pictures=pictures, labels=list(labels), crowding=crowding or {}
    )


@pytest.fixture
def synthetic(reference):
    """The reference data set as pycocotools reads it."""
    return reference.load("coco_synth_gt.json")


def test_average_precision_equals_the_reference(reference, synthetic, capsys):
    found, golden = reference.load("coco_synth_dt.json"), reference.load("coco_synth_eval.json")
    before = copy.deepcopy((synthetic, found))
    figures = coco_figures(synthetic, found, golden["sigmas"])
    reference.match("coco_synth_eval.json", as_stats(figures), golden["stats"], atol=1e-9)
    reference.match("coco_synth_dt.json", len(found), golden["n_dt"])
    reference.match("coco_synth_gt.json", len(synthetic["annotations"]), golden["n_gt"])
    assert capsys.readouterr().out == ""
    assert (synthetic, found) == before


def test_labels_that_are_read_give_the_reference_figures(reference, synthetic, tmp_path):
    """They differ from the file's in one person without an area, who is not run and so is not missed, but ignored."""
    file = reference.folder / "coco_synth_gt.json"
    make_root(tmp_path, file, *(image["file_name"] for image in synthetic["images"]))
    labels = labels_of(load_data(f"coco:{tmp_path}", "val"), ALL)
    found, golden = reference.load("coco_synth_dt.json"), reference.load("coco_synth_eval.json")
    (flat,) = [a for a in synthetic["annotations"] if not a["area"]]
    ignored = {**flat, "area": 0.53 * flat["bbox"][2] * flat["bbox"][3], "num_keypoints": 0, "keypoints": [0] * 51}
    changed = [ignored if a is flat else a for a in synthetic["annotations"]]
    want = coco_figures({**synthetic, "annotations": changed}, found, golden["sigmas"])
    assert want["AP"] > coco_figures(synthetic, found, golden["sigmas"])["AP"]
    reference.match(file.name, as_stats(coco_figures(labels, found, golden["sigmas"])), as_stats(want), atol=1e-9)
    region = next(a for a in labels["annotations"] if a["bbox"] == flat["bbox"])
    region.update(area=0, num_keypoints=flat["num_keypoints"], keypoints=flat["keypoints"])
    figures = coco_figures(labels, found, golden["sigmas"])
    reference.match("coco_synth_eval.json", as_stats(figures), golden["stats"], atol=1e-9)


@pytest.mark.parametrize(
    ("tag", "varied"),
    [
        ("oks0p9", {}),
        ("oks0p5", {"oks_nms": partial(oks_nms, limit=0.5)}),
        ("soft0p9", {"oks_nms": soft_oks_nms}),
        ("vis0p0", {"person_scores": partial(person_scores, joint_score=0.0)}),
    ],
)
def test_the_pipeline_equals_hrnet(reference, synthetic, monkeypatch, tag, varied):
    for rule, other in varied.items():
        monkeypatch.setattr(coco_module, rule, other)
    golden = reference.load("hrnet_coco_pipeline.npz")
    areas, scores = golden["all_boxes"][:, 4], golden["all_boxes"][:, 5]
    got = coco_results(golden["pred_image_id"].tolist(), golden["preds"], scores, areas, COCO17.sigmas)
    name = "hrnet_coco_pipeline.npz"
    reference.match(name, len(got), golden[f"eval_{tag}_n_results"])
    reference.match(name, [r["image_id"] for r in got], golden[f"eval_{tag}_result_image_ids"])
    reference.match(name, [r["score"] for r in got], golden[f"eval_{tag}_result_scores"], atol=1e-6)
    figures = coco_figures(synthetic, got, COCO17.sigmas)
    reference.match(name, as_stats(figures), golden[f"eval_{tag}_stats"], atol=1e-6)


def test_results_are_one_list_over_the_pictures():
    poses = np.zeros((4, 17, 3), np.float32)
    poses[:, :, 2] = 0.5
    poses[3] += 100
    # Two pictures, their persons mixed; in picture 9 the second person is the first again, with a better box.
    got = coco_results([9, 4, 9, 9], poses, [0.2, 0.4, 0.8, 0.1], [50] * 4, COCO17.sigmas)
    assert [r["image_id"] for r in got] == [9, 9, 4]
    assert got[0]["score"] == pytest.approx(10.05)
    assert got[1]["score"] == pytest.approx(0.4)
    assert got[0]["keypoints"][:3] == [100, 100, 100.5]
    assert json.loads(json.dumps(got)) == got
    assert coco_results([], np.zeros((0, 17, 3)), [], [], COCO17.sigmas) == []


def test_without_results_everything_is_missed(synthetic):
    figures = coco_figures(synthetic, [], COCO17.sigmas)
    assert set(figures.values()) == {0.0}


def test_a_size_that_nobody_has_has_no_figure():
    points = [[10, 5, 2]] * 17
    labels = labels_of(split(label(1, points, area=10_000)), ALL)
    found = coco_results([1], np.reshape(points, (1, 17, 3)), [1], [200], COCO17.sigmas)
    figures = coco_figures(labels, found, COCO17.sigmas)
    assert figures["AP"] == figures["APL"] == pytest.approx(100)
    assert figures["APM"] is figures["ARM"] is None


def test_labels_are_in_the_form_of_pycocotools():
    points = [[4, 5, 2], [0, 0, 0], [6, 7, 1]]
    data = split(
        label(1, points), label(1, points, 3.0, counted=False), label(3, np.zeros((3, 3)), counted=False, crowd=True)
    )
    labels = labels_of(data, [2, 0])
    assert labels["images"] == [{"id": 1}, {"id": 3}]
    assert labels["categories"] == [{"id": 1, "name": "person"}]
    first, ignored, crowd = labels["annotations"]
    want = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 20, 10], "area": 106}
    assert first == {**want, "num_keypoints": 2, "keypoints": [6, 7, 1, 4, 5, 1]}
    assert labels_of(data, [2, 1])["annotations"][0]["keypoints"] == [6, 7, 1, 0, 0, 0]
    assert ignored == {**want, "id": 2, "area": 3, "num_keypoints": 0, "keypoints": [6, 7, 1, 4, 5, 1]}
    assert crowd == {**want, "id": 3, "image_id": 3, "iscrowd": 1, "num_keypoints": 0, "keypoints": [0] * 6}


def test_crowdpose_by_hand():
    # Four pictures with one person each, all found but the one in the most crowded picture.
    points = np.tile([10.0, 5.0, 2.0], (14, 1))
    data = split(*(label(i, points) for i in range(1, 5)), crowding={1: 0.05, 2: 0.1, 3: 0.5, 4: 0.8})
    labels = labels_of(data, range(14))
    sigmas = [0.08] * 14
    poses = np.tile(points, (4, 1, 1))
    poses[3, :, 0] += 500
    found = coco_results([1, 2, 3, 4], poses, [0.9, 0.8, 0.7, 0.1], [100] * 4, sigmas)
    figures = crowd_figures(labels, found, sigmas)
    # Precision is 1 up to a recall of 3/4: 76 of COCO's 101 recall points.
    want = {"AP": 100 * 76 / 101, "AP50": 100 * 76 / 101, "AP75": 100 * 76 / 101, "AR": 75, "AR50": 75, "AR75": 75}
    levels = {"AP easy": 100, "AP medium": 100, "AP hard": 0}
    assert figures == pytest.approx({**want, **levels})
    del labels["images"][0]["crowdIndex"]
    assert "AP easy" not in crowd_figures(labels, found, sigmas)
    assert list(CROWD_LEVELS) == list(levels)


def test_the_extra_is_named(synthetic, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UsageError, match=r"'pycocotools' is not installed: pip install 'edgepose\[onnx\]'"):
        coco_figures(synthetic, [], COCO17.sigmas)
