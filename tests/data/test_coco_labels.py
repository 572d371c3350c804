"""Who is run and who is scored, and labels that do not fit their picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.images import read_image, write_image
from edgepose.data import load_data
from edgepose.data.samples import require_size
from tests.doubles.coco_root import BROKEN, CONTENT, PERSON, make_root, with_person


def test_fractions_are_refused_by_name(tmp_path):
    fractions = {**PERSON, "bbox": [0.1, 0.25, 0.4, 0.6], "keypoints": [0.3, 0.5, 2, *[0] * 48]}
    content = {**CONTENT, "annotations": [fractions, {**fractions, "iscrowd": 1}]}
    with pytest.raises(
        UsageError, match=r"1 smaller than a pixel, 1 crowd\).*: are these fractions\? Boxes and joints"
    ):
        load_data(make_root(tmp_path, content, "a.jpg"), "val")


@pytest.mark.parametrize(
    "odd",
    [
        {"bbox": [10, 20, 190, 140]},
        {"bbox": [-99, -79, 150, 150], "area": 1e4},
        {"area": 4000},
        {"area": 20},
        {"keypoints": [90, 120, 2, *[0] * 48]},
        {"keypoints": [30, 40, 2, 900, 900, 1, *[0] * 45]},
        {"keypoints": [None, None, None, 30, 40, 2, *[0] * 45]},
        {"keypoints": [[30, 40, 2], *[[0, 0, 0]] * 16]},
        {"area": "1200", "iscrowd": "0", "num_keypoints": "1"},
        {"bbox": [10, 20, 1, 1], "area": 1, "keypoints": [10, 20, 2, *[0] * 48]},
    ],
    ids=str,
)
def test_what_is_only_unusual_is_taken(tmp_path, odd):
    content = {**CONTENT, "annotations": [{**PERSON, **odd}]}
    data = load_data(make_root(tmp_path, content, "a.jpg"), "val")
    assert (len(data.samples), [label.counted for label in data.labels], data.skipped) == (1, [True], {})


@pytest.mark.parametrize("name", [name for name in BROKEN if not name.startswith("damaged")])
def test_who_is_not_run_is_a_region_to_ignore(tmp_path, name):
    data = load_data(make_root(tmp_path, BROKEN[name], "a.jpg"), "val")
    person, *rest = data.labels
    assert (person.counted, person.crowd, person.area, person.bbox) == (True, False, 1200, (10, 20, 40, 50))
    assert person.joints is data.samples[0].joints
    if name == "no area (flat box)":  # nowhere
        assert rest == []
        return
    (region,) = rest
    assert (region.counted, region.crowd, region.image_id) == (False, name == "crowd", 1)
    assert list(region.bbox) == BROKEN[name]["annotations"][1]["bbox"]
    assert not region.visible.any()
    assert region.area == pytest.approx(1060 if name == "no area" else BROKEN[name]["annotations"][1]["area"])


@pytest.mark.parametrize("name", [name for name in BROKEN if name.startswith("damaged")])
def test_who_is_damaged_is_not_scored(tmp_path, name):
    data = load_data(make_root(tmp_path, BROKEN[name], "a.jpg"), "val")
    person, *regions = data.labels
    assert person.counted
    assert all(not region.counted and not region.visible.any() and np.isfinite(region.area) for region in regions)


def test_places_of_joints_that_are_not_labelled_are_left_out(tmp_path):
    content = {
        **CONTENT,
        "annotations": [{**PERSON, "keypoints": [30, 40, 2, 31, 41, 0, None, None, None, *[-1] * 42]}],
    }
    (person,) = load_data(make_root(tmp_path, content, "a.jpg"), "val").samples
    assert person.joints.tolist() == [[30, 40], *[[0, 0]] * 16]
    assert person.visible.tolist() == [True] + [False] * 16


@pytest.mark.parametrize("field", ["area", "iscrowd", "num_keypoints", "category_id"])
def test_null_is_like_a_missing_field(tmp_path, field):
    content = with_person()
    content["annotations"][1][field] = None
    with_null = load_data(make_root(tmp_path / "a", content, "a.jpg"), "val")
    del content["annotations"][1][field]
    without = load_data(make_root(tmp_path / "b", content, "a.jpg"), "val")
    for data in (with_null, without):
        assert [label.counted for label in data.labels] == [True, True]
        assert [label.area for label in data.labels] == [1200, pytest.approx(0.53 * 2000) if field == "area" else 1200]
        assert (len(data.samples), data.skipped) == (2, {})


def test_crowdpose_runs_hidden_persons_and_ignores_them(tmp_path):
    content = with_person(num_keypoints=0, keypoints=[30, 40, 1] * 14)
    content["annotations"][0]["keypoints"] = [30, 40, 2] * 14
    make_root(tmp_path, content, file="crowdpose_val.json")
    (tmp_path / "a.jpg").touch()
    data = load_data(f"crowdpose:{tmp_path}", "val")
    assert (len(data.samples), [label.counted for label in data.labels]) == (2, [True, False])
    assert data.labels[1].visible.all()


@pytest.mark.parametrize("number", [0, "many", -1, [2]])
def test_the_number_of_joints_is_counted_not_read(tmp_path, number):
    data = load_data(make_root(tmp_path, with_person(num_keypoints=number), "a.jpg"), "val")
    assert (len(data.samples), [label.counted for label in data.labels]) == (2, [True, True])


def test_crowd_indices_that_are_no_number_are_left_out(tmp_path):
    content = {
        **CONTENT,
        "images": [
            {**CONTENT["images"][0], "id": i, "crowdIndex": value}
            for i, value in enumerate((None, "dense", 0.25), start=1)
        ],
    }
    assert load_data(make_root(tmp_path, content, "a.jpg"), "val").crowding == {3: 0.25}


def test_labels_equal_the_reference(reference, tmp_path):
    """All 80 annotations: 67 persons to find, as HRNet selects them, and 13 regions, of which 5 are crowds."""
    content = reference.load("coco_synth_gt.json")
    names = [picture["file_name"] for picture in content["images"]]
    data = load_data(make_root(tmp_path, reference.folder / "coco_synth_gt.json", *names), "val")
    assert (len(data.labels), sum(label.crowd for label in data.labels)) == (80, 5)
    counted = [label for label in data.labels if label.counted]
    reference.match("coco_synth_gt.json", len(counted), 67)
    assert all(label.joints is sample.joints for label, sample in zip(counted, data.samples, strict=True))
    written = {tuple(a["bbox"]): a["area"] for a in content["annotations"] if a["area"]}
    reference.match("coco_synth_gt.json", [label.area for label in counted], [written[label.bbox] for label in counted])


def with_pictures(root: Path, size: tuple[int, int], count: int, **listed: Any) -> str:
    """A data set with real pictures (height, width), a person in each; ``listed`` are the sizes in the JSON."""
    images = [{**CONTENT["images"][0], **listed, "id": i, "file_name": f"{i}.png"} for i in range(count)]
    persons = [{**PERSON, "image_id": i} for i in range(count)]
    spec = make_root(root, {**CONTENT, "images": images, "annotations": persons})
    for picture in images:
        write_image(root / "val2017" / str(picture["file_name"]), np.zeros((*size, 3), np.uint8))
    return spec


@pytest.mark.parametrize(
    ("size", "advice"),
    [((100, 80), "were they made before it was turned"), ((160, 200), "give the pictures that were labelled, or")],
)
def test_pictures_of_another_size_are_refused_with_both_sizes(tmp_path, size, advice):
    message = rf"0\.png is {size[1]}x{size[0]} pixels \(width x height, .*the labels are for 100x80: {advice}"
    with pytest.raises(UsageError, match=message):
        load_data(with_pictures(tmp_path, size, 1), "val")


@pytest.mark.parametrize("number", range(9))
def test_first_middle_and_last_picture_are_looked_at(tmp_path, number):
    spec = with_pictures(tmp_path, (80, 100), 9)
    write_image(tmp_path / "val2017" / f"{number}.png", np.zeros((100, 80, 3), np.uint8))
    if number in (0, 4, 8):
        with pytest.raises(UsageError, match=rf"{number}\.png is 80x100"):
            load_data(spec, "val")
    else:
        data = load_data(spec, "val")
        with pytest.raises(UsageError, match=rf"{number}\.png is 80x100"):
            require_size(data.samples[number], read_image(data.samples[number].image))


def test_the_size_is_that_after_the_exif_orientation(tmp_path):
    """A picture stored as 80x100 with orientation 6 is shown as 100x80."""
    spec = with_pictures(tmp_path, (80, 100), 1)
    stored = cv2.imencode(".jpg", np.zeros((100, 80, 3), np.uint8))[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = stored[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + stored[2:]
    (tmp_path / "val2017/0.png").write_bytes(turned)
    assert load_data(spec, "val").samples[0].size == (80, 100)
    (tmp_path / "val2017/0.png").write_bytes(stored)
    with pytest.raises(UsageError, match=r"0\.png is 80x100 pixels .* the labels are for 100x80"):
        load_data(spec, "val")


@pytest.mark.parametrize("size", [{"width": None, "height": None}, {"width": 0, "height": 0}, {"width": ""}])
def test_sizes_that_are_not_listed_are_not_compared(tmp_path, size):
    data = load_data(with_pictures(tmp_path, (60, 70), 1, **size), "val")
    assert (data.samples[0].size, data.sizes) == (None, {})
    assert data.samples[0].box.tolist() == [10, 20, 49, 69]
