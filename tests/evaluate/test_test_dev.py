"""COCO's test-dev, which has no labels: a results file for the evaluation server, by hand-computed values."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgepose import evaluate as evaluate_module
from edgepose.accuracy import scoring
from edgepose.cli import main
from edgepose.core.errors import UsageError
from edgepose.core.images import read_image
from edgepose.core.skeletons import COCO17, LSP14, Skeleton
from edgepose.data import load_data
from edgepose.evaluate import predict_test_dev

NAMES = {7: "000000000007.jpg", 3: "000000000003.jpg", 9: "000000000009.jpg"}
#: A box of 40 x 40 around (30, 40), and one of 20 x 40 whose left side is out of the picture.
FIRST, SECOND = [10, 20, 40, 40], [-10, 0, 20, 40]
LISTED = "image_info_test-dev2017.json"


def make_root(root: Path, content: Any = None, *missing: int, folder: str = "test2017") -> str:
    """COCO's layout: the list of three pictures, or another content of its file, and grey pictures."""
    images = [{"id": number, "file_name": name, "width": 80, "height": 80} for number, name in NAMES.items()]
    (root / "annotations").mkdir(parents=True)
    listed = content if isinstance(content, str) else json.dumps(content or {"images": images, "categories": []})
    (root / "annotations" / LISTED).write_text(listed)
    (root / folder).mkdir(parents=True)
    for number, name in NAMES.items():
        if number not in missing:
            cv2.imwrite(str(root / folder / name), np.full((80, 80, 3), 90, np.uint8))
    return f"coco:{root}"


def make_boxes(path: Path, *entries: tuple[int, list[int], float]) -> str:
    found = [{"image_id": n, "category_id": 1, "bbox": box, "score": score} for n, box, score in entries]
    path.write_text(json.dumps([*found, {"image_id": 7, "category_id": 18, "bbox": FIRST, "score": 0.9}]))
    return str(path)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Replace the network by one that finds every joint in the middle of the crop; returns the sizes of its batches.

    Ten joints have the score 0.5, the others 0.125, which is too little to count.
    """

    def make(skeleton: Skeleton = COCO17, model: str = "hrnet_w32") -> list[int]:
        batches = []

        def infer(crops: np.ndarray) -> dict[str, np.ndarray]:
            batches.append(len(crops))
            maps = np.zeros((len(crops), len(skeleton.joints), 16, 16), np.float32)
            maps[:, :, 8, 8] = 0.125
            maps[:, :10, 8, 8] = 0.5
            return {"heatmaps": maps}

        opened = evaluate_module._Network(infer, model, "fake", "fp32", skeleton, (64, 64))
        monkeypatch.setattr(evaluate_module, "_open", lambda *_: nullcontext(opened))
        return batches

    return make


def test_every_listed_picture_is_read_in_the_list_s_order(tmp_path: Path) -> None:
    data = load_data(make_root(tmp_path), "test-dev")
    assert (data.kind, data.skeleton, data.samples, data.skipped) == ("coco", "coco17", [], {})
    assert data.annotations == tmp_path / "annotations" / LISTED
    assert list(data.pictures.items()) == [(n, tmp_path / "test2017" / name) for n, name in NAMES.items()]
    elsewhere = load_data(make_root(tmp_path / "b", None, 3, folder="images/test2017"), "test-dev")
    assert list(elsewhere.pictures) == [7, 9] and elsewhere.skipped == {"picture missing": [NAMES[3]]}
    listed = {"images": [{"id": "7", "file_name": NAMES[7]}, {"file_name": "x"}, {"id": 0.5, "file_name": "y"}]}
    data = load_data(make_root(tmp_path / "c", listed), "test-dev")
    assert list(data.pictures) == [7] and data.skipped == {"damaged picture entry": ["x", "y"]}


def test_poses_are_written_as_the_server_takes_them(tmp_path: Path, network: Callable[..., list[int]]) -> None:
    batches, data = network(), make_root(tmp_path)
    # The third is the first again, so a duplicate; the last is of a picture that is not listed.
    entries = [(3, FIRST, 0.5), (7, FIRST, 0.25), (7, FIRST, 0.75), (7, SECOND, 0.5), (8, FIRST, 0.5)]
    boxes = make_boxes(tmp_path / "boxes.json", *entries)
    found = predict_test_dev(tmp_path, data, boxes=boxes)
    found.save_results(tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(result.keys() == {"image_id", "category_id", "keypoints", "score"} for result in results)
    # In the list's order, best first in a picture; the score is the box's x the mean of the joint scores above 0.2.
    assert [(r["image_id"], r["category_id"], r["score"]) for r in results] == [
        (7, 1, 0.75 * 0.5),
        (7, 1, 0.5 * 0.5),
        (3, 1, 0.5 * 0.5),
    ]
    scores = [0.5] * 10 + [0.125] * 7
    for result, (x, y) in zip(results, [(30, 40), (0, 20), (30, 40)], strict=True):
        assert len(result["keypoints"]) == 51
        np.testing.assert_allclose(np.reshape(result["keypoints"], (17, 3)), [(x, y, s) for s in scores], atol=1e-4)
    assert batches == [4]
    assert str(found).splitlines() == [
        "no AP: only COCO's evaluation server has the labels of test-dev; it takes a zip of one file, "
        "person_keypoints_test-dev2017_NAME_results.json",
        f"3 poses in 3 pictures, 1 of them without a detection, fake fp32, boxes of {boxes}",
        "skipped 1 (1 detection: picture not in the data): entry 4",
    ]
    report = found.to_json()
    assert (report["results"], report["pictures"], report["settings"]["flip"]) == (3, 3, False)
    assert "value" not in report and "figures" not in report


def test_pycocotools_takes_the_file(tmp_path: Path, network: Callable[..., list[int]]) -> None:
    """Its ``loadRes`` is what the server begins with; the area is of the joints' extent."""
    coco = pytest.importorskip("pycocotools.coco")
    network()
    boxes = make_boxes(tmp_path / "boxes.json", (7, FIRST, 0.5), (3, FIRST, 0.5))
    predict_test_dev(tmp_path, make_root(tmp_path), boxes=boxes).save_results(tmp_path / "results.json")
    loaded = coco.COCO(str(tmp_path / "annotations" / LISTED)).loadRes(str(tmp_path / "results.json"))
    assert sorted(loaded.getImgIds()) == [3, 7, 9]
    assert [entry["image_id"] for entry in loaded.dataset["annotations"]] == [7, 3]


def test_each_picture_is_read_once_whatever_the_order_of_the_boxes(
    tmp_path: Path, network: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network()
    read = []

    def note(path: Path) -> np.ndarray:
        read.append(path.name)
        return read_image(path)

    monkeypatch.setattr(scoring, "read_image", note)
    boxes = make_boxes(tmp_path / "boxes.json", *[(n, FIRST, 0.5) for n in (9, 7, 9, 7, 9)])
    predict_test_dev(tmp_path, make_root(tmp_path), boxes=boxes)
    assert read == [NAMES[7], NAMES[9]]


@pytest.mark.parametrize(
    ("model", "calls", "said"),
    [
        ("hrnet_w48", 2, "flip test, as published: flip test (the tables of HRNet's official code)"),
        ("simplebaseline_r50", 2, "flip test, as published: flip test (the tables of HRNet's official code)"),
        ("ditn_hrnet_w32", 2, "flip test, as published: flip test (DITN, section 4.1.2)"),
        ("ditn_resnet50", 2, "flip test, as published: flip test (DITN, section 4.1.2)"),
        ("sg_hrnet_w32", 2, "flip test, as published: flip test (SG-HRNet, section 4.3)"),
        ("hsrnet_110", 2, "flip test, as published: flip test (the tables of HSR-MSNet's own code)"),
        ("hsr_msnet_59", 2, "flip test, as published: flip test (the tables of HSR-MSNet's own code)"),
        ("ditn_lite", 1, "as published: no flip test (ditn_lite is in no paper's table)"),
        ("hsr_msnet_lite", 1, "as published: no flip test (hsr_msnet_lite is in no paper's table)"),
    ],
)
def test_a_paper_decides_on_its_flip_test(
    tmp_path: Path, network: Callable[..., list[int]], model: str, calls: int, said: str
) -> None:
    batches, data = network(model=model), make_root(tmp_path)
    boxes = make_boxes(tmp_path / "boxes.json", (3, FIRST, 0.5))
    found = predict_test_dev(tmp_path, data, boxes=boxes, as_published=True)
    assert batches == [1] * calls and found.flip == (calls == 2)
    assert str(found).splitlines()[1].endswith(f"fake fp32, boxes of {boxes}, {said}")
    assert found.to_json()["published"] == found.published


def test_every_network_has_a_protocol() -> None:
    pytest.importorskip("torch")
    from edgepose.evaluate.published import published_flip
    from edgepose.models import HEATMAP_MODELS

    ours = {name for name in HEATMAP_MODELS if not published_flip(name)[0]}
    assert ours == {name for name in HEATMAP_MODELS if name.endswith("_lite")}


@pytest.mark.parametrize("option", [{"flip": True}, {"decode": "dark"}])
def test_a_protocol_is_not_mixed_with_another(
    tmp_path: Path, network: Callable[..., list[int]], option: dict[str, Any]
) -> None:
    network()
    with pytest.raises(UsageError, match="takes the paper's flip test and decoding: leave --flip and --decode out"):
        predict_test_dev(tmp_path, make_root(tmp_path), boxes="x.json", as_published=True, **option)


def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path, network: Callable[..., list[int]]) -> None:
    network()
    data, boxes = make_root(tmp_path / "a"), make_boxes(tmp_path / "boxes.json", (3, FIRST, 0.5))
    (tmp_path / "empty" / "annotations").mkdir(parents=True)
    (tmp_path / "val" / "annotations").mkdir(parents=True)
    (tmp_path / "val/annotations/person_keypoints_val2017.json").write_text("{}")
    all_gone = make_root(tmp_path / "gone", None, *NAMES)
    other = make_root(tmp_path / "b", {"images": [{"id": 1}], "annotations": [{"caption": "x"}]})
    for root, given, message in (
        (data, "gt", r"test-dev has no labelled boxes: give a detector's results with boxes \(--boxes FILE\)"),
        (f"coco:{tmp_path / 'empty'}", boxes, rf"{LISTED} is missing \(found no \.json file there\): check ROOT"),
        (f"coco:{tmp_path / 'val'}", boxes, rf"{LISTED} is missing \(found person_keypoints_val2017\.json\)"),
        (other, boxes, rf"{LISTED} is a file of COCO captions, expected COCO's list of images with id and file_name"),
        (make_root(tmp_path / "c", {"images": []}), boxes, "expected COCO's list of images with id and file_name"),
        (make_root(tmp_path / "d", '{"images": [{"id"'), boxes, "is not readable JSON or was cut short"),
        (make_root(tmp_path / "e", "[]"), boxes, "expected COCO's list of images with id and file_name"),
        (all_gone, boxes, r"none of the 3 pictures listed in .* is in .*test2017, .*: put them there"),
        (data, str(tmp_path / "none.json"), r"cannot read .*none\.json"),
        (data, make_boxes(tmp_path / "8.json", (8, FIRST, 1)), r"8\.json has no person in the pictures of .*test-dev"),
    ):
        with pytest.raises(UsageError, match=message):
            predict_test_dev(tmp_path, root, boxes=given)
    network(LSP14)
    with pytest.raises(UsageError, match="predicts the joints of lsp14, test-dev needs coco17's"):
        predict_test_dev(tmp_path, data, boxes=boxes)


def test_the_command_writes_the_file(
    tmp_path: Path, network: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    batches, data = network(), make_root(tmp_path)
    boxes, out = make_boxes(tmp_path / "boxes.json", (3, FIRST, 0.5)), tmp_path / "out.json"
    command = ["eval", str(tmp_path), "--data", data, "--split", "test-dev", "--boxes", boxes]
    figures = tmp_path / "figures.json"
    assert main([*command, "--as-published", "--results", str(out), "--json", str(figures)]) == 0
    assert "no AP" in capsys.readouterr().out and batches == [1, 1]
    assert [result["image_id"] for result in json.loads(out.read_text())] == [3]
    assert json.loads(figures.read_text())["results"] == 1
    for more, message in (
        ([], "--split test-dev needs --results OUT, the file for COCO's evaluation server"),
        (["--results", "r.json", "--worst", "w.png"], "--worst would have no effect: expected with labels"),
        (["--results", "r.json", "--shared-joints"], "--shared-joints would have no effect: expected with labels"),
    ):
        assert main([*command, *more]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
