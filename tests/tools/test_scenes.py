"""Where the detector's training pictures come from, and how they are composed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from edgepose.core.errors import UsageError
from tools.person_lite.mosaic import compose, window
from tools.person_lite.recipe import DetectorRecipe
from tools.person_lite.scenes import Scene, coco_scenes, merge

NOBODY = np.zeros((0, 4))
WHITE = (250, 250, 250)


@pytest.fixture
def white_person(tmp_path: Path) -> Scene:
    """A black picture of 200 x 300 pixels with a white person in it."""
    picture, box = np.zeros((200, 300, 3), np.uint8), np.array([[120.0, 60, 160, 140]])
    picture[60:140, 120:160] = WHITE
    cv2.imwrite(str(tmp_path / "white.png"), picture)
    return Scene(tmp_path / "white.png", box, NOBODY)


def write_coco(folder: Path, **changes: object) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(folder / "pictures" / name), np.zeros((8, 8, 3), np.uint8))
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1},
            {"image_id": 7, "category_id": 18, "bbox": [5, 5, 5, 5], "iscrowd": 0},
        ],
    }
    (folder / "labels.json").write_text(json.dumps({**content, **changes}))
    return folder / "labels.json"


def test_coco_persons_and_crowds(tmp_path: Path) -> None:
    first, second = coco_scenes(write_coco(tmp_path), tmp_path / "pictures")
    assert first.image == tmp_path / "pictures" / "a.jpg"
    assert first.boxes.tolist() == [[10, 20, 40, 60]]
    assert first.ignored.tolist() == [[1, 2, 4, 6]]
    assert (second.boxes.shape, second.ignored.shape) == ((0, 4), (0, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "does not hold COCO annotations|names no picture"),
        ({"images": [], "annotations": []}, "names no picture"),
        ({"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "c.jpg"}]}, "1 of 2 pictures .* c.jpg"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3]}]}, "does not hold COCO annotations"),
        ({"annotations": [{"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]}]}, "does not hold COCO annotations"),
        ({"annotations": {"a": 1}}, "does not hold COCO annotations"),
    ],
)
def test_coco_files_that_cannot_be_used(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        coco_scenes(write_coco(tmp_path, **changes), tmp_path / "pictures")


def test_coco_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        coco_scenes(tmp_path / "none.json", tmp_path)
    unreadable, other = "is not readable JSON or was cut short", "does not hold COCO annotations"
    for text, message in (("", unreadable), ('{"images": ', unreadable), ("[1, 2]", other), ("{}", other)):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UsageError, match=message):
            coco_scenes(tmp_path / "bad.json", tmp_path)


def test_ids_may_be_text_and_persons_have_the_category_of_that_name(tmp_path: Path) -> None:
    """As the readers of COCO keypoints take them."""
    path = write_coco(
        tmp_path,
        images=[{"id": "0007", "file_name": "a.jpg"}, {"id": 8.0, "file_name": "b.jpg"}],
        categories=[{"id": "3", "name": "person"}, {"id": 1, "name": "dog"}],
        annotations=[
            {"image_id": 7, "category_id": "3", "bbox": [10, 20, 30, 40]},
            {"image_id": "8", "category_id": 3, "bbox": [1, 2, 3, 4]},
            {"image_id": 8, "category_id": 1, "bbox": [5, 5, 5, 5]},
        ],
    )
    assert [s.boxes.tolist() for s in coco_scenes(path, tmp_path / "pictures")] == [[[10, 20, 40, 60]], [[1, 2, 4, 6]]]


ATHLETE = np.array([10.0, 10, 50, 90])


def test_a_box_that_was_found_replaces_the_athlete_s() -> None:
    boxes = np.array([[100.0, 0, 120, 40], [8, 8, 54, 94], [200, 0, 220, 40]])
    scene = merge(Path("a.jpg"), ATHLETE, boxes, np.array([0.9, 0.2, 0.3]))
    assert scene.boxes.tolist() == boxes[:2].tolist(), "found with little certainty, but labelled"
    assert scene.ignored.tolist() == boxes[2:].tolist()


def test_an_athlete_who_was_not_found_keeps_the_box_around_the_joints() -> None:
    boxes = np.array([[100.0, 0, 120, 40], [10, 10, 25, 40]])
    scene = merge(Path("a.jpg"), ATHLETE, boxes, np.array([0.9, 0.3]))
    assert scene.boxes.tolist() == [boxes[0].tolist(), ATHLETE.tolist()]
    assert scene.ignored.tolist() == [boxes[1].tolist()]
    alone = merge(Path("a.jpg"), ATHLETE, NOBODY, np.zeros(0))
    assert (alone.boxes.tolist(), alone.ignored.tolist()) == ([ATHLETE.tolist()], [])


def test_boxes_stay_on_the_person_through_every_change(white_person: Scene) -> None:
    """Whatever is drawn: inside the box it is bright, outside dark or the grey of the border."""
    recipe, seen = DetectorRecipe(colour=0.0), 0
    for seed in range(60):
        made = window(white_person, (96, 128), recipe, np.random.default_rng(seed))
        assert made.image.shape == (96, 128, 3)
        bright = made.image.min(axis=2) > 190
        inside = np.zeros_like(bright)
        for x1, y1, x2, y2 in np.concatenate([made.boxes, made.ignored]):
            inside[max(0, round(y1 - 1)) : round(y2 + 1), max(0, round(x1 - 1)) : round(x2 + 1)] = True
            assert bright[round(y1 + 2) : round(y2 - 2), round(x1 + 2) : round(x2 - 2)].all()
        assert not bright[~inside].any()
        seen += len(made.boxes)
    assert seen > 40


def test_boxes_are_exact_to_a_fraction_of_a_pixel(white_person: Scene) -> None:
    """The white area in the window is about as large as the box, and its middle is that of the box, mirrored or not."""
    checked = 0
    for seed in range(99):
        made = window(white_person, (200, 200), DetectorRecipe(colour=0.0), np.random.default_rng(seed))
        if len(made.boxes) != 1 or made.boxes.min() < 2 or made.boxes.max() > 198:
            continue  # cut off by the window
        if made.boxes[0, 2] - made.boxes[0, 0] < 40:
            continue  # made smaller, which is done without a filter: the edges jump by whole pixels
        light = np.clip(made.image[..., 0] - 125.0, 0, 125) / 125  # more than the grey of the border
        rows, columns = np.mgrid[:200, :200] + 0.5
        x1, y1, x2, y2 = made.boxes[0]
        assert light.sum() == pytest.approx((x2 - x1) * (y2 - y1), rel=0.1)
        centre = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
        assert centre == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=0.2)
        checked += 1
    assert checked > 5


def test_persons_have_all_sizes_and_hardly_visible_ones_are_ignored(white_person: Scene) -> None:
    recipe = DetectorRecipe()
    made = [window(white_person, (320, 320), recipe, np.random.default_rng(seed)) for seed in range(200)]
    heights = np.concatenate([m.boxes[:, 3] - m.boxes[:, 1] for m in made])
    assert np.percentile(heights, 5) < 100
    assert np.percentile(heights, 95) > 200
    for m in made:
        for boxes in (m.boxes, m.ignored):
            assert (boxes >= 0).all()
            assert (boxes <= 320).all()
            assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
    assert any(len(m.ignored) for m in made)


def test_a_picture_depends_on_the_random_state_alone(white_person: Scene) -> None:
    groups = [[white_person], [white_person]]
    first, again, other = (compose(groups, DetectorRecipe(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.image == again.image).all()
    assert (first.boxes == again.boxes).all()
    assert (first.image != other.image).any()


def test_tiles_fill_the_picture_and_carry_their_boxes(white_person: Scene) -> None:
    recipe = DetectorRecipe(height=96, width=128, grids=(0.0, 0.0, 1.0), colour=0.0, shares=(1.0, 0.0))
    made = compose([[white_person], []], recipe, np.random.default_rng(4))
    assert made.image.shape == (96, 128, 3)
    assert len(made.boxes) + len(made.ignored) >= 7
    for x1, y1, x2, y2 in made.boxes:
        assert made.image[int((y1 + y2) / 2), int((x1 + x2) / 2)].min() > 190


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 100}, "multiples of 32, got 100x320"),
        ({"width": 0}, "multiples of 32"),
        ({"steps": 0}, "at least 1, got 0 and 8"),
        ({"batch": -1}, "at least 1"),
        ({"shares": (0.5, 0.6)}, "shares must be chances that sum up to 1"),
        ({"grids": (1.5, -0.5, 0.0)}, "grids must be chances"),
    ],
)
def test_recipes_that_cannot_be(fields: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DetectorRecipe(**fields)
