"""Calibration crops: the runtime's own, evenly spread, and in one sentence why there are none."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgepose
from edgepose.calib.crops import MIN_CROPS, CropSet, crop_hashes, crops_from_data, crops_from_images, spread
from edgepose.core.errors import UsageError
from edgepose.core.geometry import crop_boxes
from edgepose.core.images import read_image, write_image
from edgepose.core.sample_photos import load_photo
from edgepose.detectors.kinds import open_detector

BUNDLE = Path(edgepose.__file__).parent / "assets" / "ditn_lite.edgepose"
SIZE = (64, 48)


def grey_picture(level: int) -> np.ndarray:
    return np.full((40, 30, 3), level, np.uint8)


def make_folder(folder: Path, count: int, suffix: str = ".png") -> Path:
    """Picture i is grey of level i."""
    folder.mkdir()
    for level in range(count):
        write_image(folder / f"{level:03d}{suffix}", grey_picture(level))
    return folder


def refusal(call: Callable[..., CropSet], *arguments: object, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# --- which pictures ---


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 100, 1001])
def test_every_beginning_is_spread_evenly(count):
    order = list(spread(range(count)))
    assert sorted(order) == list(range(count))
    for taken in range(1, count + 1):
        gaps = np.diff(sorted([-1, *order[:taken], count]))
        assert gaps.max() <= 4 * count / taken


def test_a_selection_of_many_pictures_is_even_and_always_the_same(tmp_path):
    folder = make_folder(tmp_path / "pictures", 64)
    crops = crops_from_images(folder, "none", SIZE, limit=16)
    # The middle of a crop shows the picture; around it is the black of the padding.
    assert sorted(crops.images[:, 32, 24, 0].tolist()) == list(range(0, 64, 4))
    assert crops.names[:3] == ("000.png:0", "032.png:0", "016.png:0")
    again = crops_from_images(folder, "none", SIZE, limit=16)
    assert crop_hashes(again.images) == crop_hashes(crops.images)
    np.testing.assert_array_equal(again.images, crops.images)


def test_all_of_a_few_pictures(tmp_path):
    (make_folder(tmp_path / "pictures", 20, ".JPG") / "notes.txt").write_text("no picture")
    crops = crops_from_images(tmp_path / "pictures", "none", SIZE)
    assert sorted(crops.images[:, 32, 24, 0].tolist()) == list(range(20))
    assert (crops.skipped, crops.empty, crops.labels) == ((), 0, None)
    assert str(crops) == "20 crops"


# --- which crops ---


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos with a person each and one without, in several sizes and mirrored; PNG, so that nothing is lost."""
    pytest.importorskip("skimage")
    folder = tmp_path_factory.mktemp("photos")
    for name in ("camera", "astronaut"):
        photo = load_photo(name)
        both = np.concatenate([photo, load_photo("camera")], axis=1)
        for side in (260, 320, 380):
            for mirrored, picture in ((False, photo), (True, photo[:, ::-1]), (None, both)):
                scaled = cv2.resize(picture, (side * picture.shape[1] // 512, side), interpolation=cv2.INTER_AREA)
                write_image(folder / f"{name}-{side}-{mirrored}.png", scaled)
    write_image(folder / "empty.png", grey_picture(90))
    return folder


@pytest.mark.slow
def test_crops_are_those_of_the_runtime(photos):
    crops = crops_from_images(photos, "person_lite", (256, 192), limit=100)
    expected = {}
    detector = open_detector("person_lite")
    with edgepose.load(BUNDLE, "onnxruntime") as estimator:
        for path in photos.iterdir():
            image = read_image(path)
            cut = estimator.cropper(image, detector(image).boxes).pixels
            expected |= {f"{path.name}:{i}": crop for i, crop in enumerate(cut)}
    detector.close()
    assert set(crops.names) == set(expected)
    assert len(crops.names) >= MIN_CROPS
    assert any(name.endswith(":1") for name in crops.names)
    for name, crop in zip(crops.names, crops.images, strict=True):
        np.testing.assert_array_equal(crop, expected[name])
    assert (crops.images.dtype, crops.images.shape[1:]) == (np.uint8, (256, 192, 3))
    assert crops.empty >= 1
    assert re.fullmatch(r"\d+ crops; no person in \d+ pictures?", str(crops))


@pytest.mark.slow
def test_the_limit_holds_inside_a_picture(photos):
    crops = crops_from_images(photos, "person_lite", SIZE, limit=17)
    assert len(crops.images) == len(crops.names) == 17
    assert crops.names == crops_from_images(photos, "person_lite", SIZE, limit=30).names[:17]


def test_without_a_detector_the_whole_picture_is_the_person(photos):
    crops = crops_from_images(photos, "none", SIZE, padding=1.0)
    assert len(crops.names) > 1
    for name, crop in zip(crops.names, crops.images, strict=True):
        image = read_image(photos / name.removesuffix(":0"))
        height, width = image.shape[:2]
        np.testing.assert_array_equal(crop, crop_boxes(image, [[0, 0, width, height]], SIZE, 1.0)[0][0])


def test_hashes_tell_crops_apart():
    crops = np.zeros((3, 2, 2, 3), np.uint8)
    crops[1, 0, 0, 0] = 1
    assert crop_hashes(crops)[0] == hashlib.sha256(bytes(12)).hexdigest()[:32]
    assert crop_hashes(crops)[0] == crop_hashes(crops)[2] != crop_hashes(crops)[1]
    # What the view of a larger array holds is hashed, not what lies around it.
    assert crop_hashes(np.pad(crops, [(0, 0), (1, 1), (1, 1), (0, 0)])[:, 1:-1, 1:-1]) == crop_hashes(crops)


# --- damage ---


def test_damaged_pictures_are_skipped_counted_and_named(tmp_path, capfd):
    folder = make_folder(tmp_path / "pictures", 20)
    (folder / "005.png").write_bytes(b"")
    whole = (folder / "009.png").read_bytes()
    (folder / "009.png").write_bytes(whole[: len(whole) // 2])
    (folder / "folder.png").mkdir()
    crops = crops_from_images(folder, "none", SIZE)
    assert sorted(crops.skipped) == ["005.png", "009.png", "folder.png"]
    assert len(crops.images) == 18
    assert "18 crops; 3 pictures cannot be read: " in str(crops)
    assert capfd.readouterr().err == ""


def test_folders_that_hold_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"")
    for folder, what in (("missing", "does not exist"), ("file.png", "is a file"), ("empty", "holds no pictures")):
        assert what in refusal(crops_from_images, tmp_path / folder, "none", SIZE)


def test_a_folder_of_damaged_pictures(tmp_path):
    folder = make_folder(tmp_path / "pictures", 0)
    for number in range(7):
        (folder / f"{number}.jpg").write_bytes(b"\xff\xd8 no picture")
    said = refusal(crops_from_images, folder, "none", SIZE)
    assert said.endswith("can be used: 7 pictures cannot be read: 0.jpg, 4.jpg, 2.jpg, 6.jpg, 1.jpg, ...")


def test_nobody_and_too_few(tmp_path):
    folder = make_folder(tmp_path / "pictures", MIN_CROPS)
    said = refusal(crops_from_images, folder, "person_lite", SIZE)
    assert re.search(r"^found no person in .*, expected at least 16 persons: .*--detector none", said)
    (folder / "003.png").write_bytes(b"")
    said = refusal(crops_from_images, folder, "none", SIZE)
    assert "found 15 persons in" in said
    assert "(1 picture cannot be read: 003.png)" in said
    assert "--detector" not in said


def test_a_limit_below_the_least_and_a_detector_that_is_none(tmp_path):
    folder = make_folder(tmp_path / "pictures", 1)
    for call, first in ((crops_from_images, (folder, "none")), (crops_from_data, (f"coco:{folder}",))):
        assert refusal(call, *first, SIZE, limit=15).startswith("15 images are too few")
    assert "does not exist" in refusal(crops_from_images, folder, "missing.onnx", SIZE)


# --- labelled data ---

_TRAIN = 12


def make_coco(root: Path) -> Path:
    """Noise pictures with two persons each: 12 to train on, and for evaluation one that cannot be read.

    A white dot is on the first joint of each person, the only one that is labelled.
    """
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    pictures, persons = [], []
    for number in range(_TRAIN):
        name = f"{number:04d}.png"
        image = rng.integers(0, 60, (120, 160, 3), dtype=np.uint8)
        for x in (40, 110):
            cv2.circle(image, (x, 50), 4, (255, 255, 255), -1)
            keypoints = [x, 50, 2, *[0] * 48]
            box = [x - 25, 20 + number, 50, 80]
            persons.append({"id": len(persons), "image_id": number, "category_id": 1, "keypoints": keypoints})
            persons[-1] |= {"bbox": box, "area": 4000, "iscrowd": 0}
        write_image(root / "images" / name, image)
        pictures.append({"id": number, "file_name": name, "width": 160, "height": 120})
    content = {"images": pictures, "annotations": persons, "categories": [{"id": 1, "name": "person"}]}
    (root / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(content))
    (root / "images" / "test.png").write_bytes(b"")
    content["images"] = [{"id": 0, "file_name": "test.png", "width": 160, "height": 120}]
    (root / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(content))
    return root


def test_labelled_persons_of_the_training_split(tmp_path):
    root = make_coco(tmp_path / "coco")
    crops = crops_from_data(f"coco:{root}", SIZE, padding=1.1)
    assert set(crops.names) == {f"{number:04d}.png:{person}" for number in range(_TRAIN) for person in (0, 1)}
    assert crops.skipped == ()
    seen = set()
    for name, crop in zip(crops.names, crops.images, strict=True):
        number = int(name[:4])
        image = read_image(root / "images" / name[:8])
        boxes = [[x - 25, 20 + number, x + 24, 99 + number] for x in (40, 110)]  # to the last pixel, as HRNet
        both = crop_boxes(image, boxes, SIZE, 1.1)[0]
        (which,) = [i for i in (0, 1) if np.array_equal(crop, both[i])]
        seen.add((number, which))
    assert len(seen) == 2 * _TRAIN


def test_labels_are_in_crop_pixels(tmp_path):
    spec = f"coco:{make_coco(tmp_path / 'coco')}"
    assert crops_from_data(spec, SIZE, skeleton="lsp14").labels is None  # of other joints
    crops = crops_from_data(spec, SIZE, skeleton="coco17")
    assert crops.labels is not None
    assert (crops.labels.shape, crops.labels.dtype) == ((24, 17, 3), np.float32)
    assert crops.labels[:, :, 2].tolist() == [[1] + [0] * 16] * 24
    for crop, labels in zip(crops.images, crops.labels, strict=True):
        x, y = labels[0, :2].round().astype(int)
        assert crop[y, x].min() > 200


def test_labels_of_pictures_of_another_size_are_refused(tmp_path):
    root = make_coco(tmp_path / "coco")
    write_image(root / "images" / "0003.png", np.zeros((160, 120, 3), np.uint8))
    with pytest.raises(UsageError, match=r"0003\.png is 120x160 pixels .* the labels are for 160x120"):
        crops_from_data(f"coco:{root}", SIZE)


def test_damaged_pictures_of_data_are_named_once(tmp_path):
    root = make_coco(tmp_path / "coco")
    (root / "images" / "0003.png").write_bytes(b"")
    crops = crops_from_data(f"coco:{root}", SIZE)
    assert (len(crops.images), crops.skipped) == (22, ("0003.png",))
    for number in range(_TRAIN):
        (root / "images" / f"{number:04d}.png").write_bytes(b"")
    assert "12 pictures cannot be read: 0000.png" in refusal(crops_from_data, f"coco:{root}", SIZE)


def test_data_that_cannot_be_calibrated_on(tmp_path):
    root = make_coco(tmp_path / "coco")
    assert "expected KIND:ROOT" in refusal(crops_from_data, str(root), SIZE)
    for number in range(8):
        (root / "images" / f"{number:04d}.png").unlink()
    assert "found 8 persons in coco:" in refusal(crops_from_data, f"coco:{root}", SIZE)
    (root / "annotations" / "person_keypoints_train2017.json").unlink()
    assert "reads the training split" in refusal(crops_from_data, f"coco:{root}", SIZE)


def test_nothing_heavy_is_loaded():
    code = (
        "import sys, edgepose.calib.crops, edgepose.calib.ranges, edgepose.data; "
        "print({'onnx', 'onnxruntime', 'scipy', 'torch'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
