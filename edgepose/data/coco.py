"""Read the keypoint annotations of COCO, and of CrowdPose, which has the same format."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..core.skeletons import get_skeleton
from .reading import DAMAGED, Intake, PersonLabels, find_annotations, has_objects, plausible, read_json, refuse_kind
from .samples import PoseData, PoseSample


def load_coco(root: Path, split: str) -> PoseData:
    """Read ``annotations/person_keypoints_{split}2017.json``, or a file of that name without the year.

    The pictures are in ``{split}2017``, ``images/{split}2017``, ``{split}``, ``images/{split}`` or ``images``.
    """
    names = [f"person_keypoints_{split}{year}.json" for year in ("2017", "")]
    annotations = find_annotations([root / "annotations" / name for name in names])
    folders = (f"{split}2017", f"images/{split}2017", split, f"images/{split}", "images")
    return _read("coco", "coco17", annotations, [root / folder for folder in folders])


def load_crowdpose(root: Path, split: str) -> PoseData:
    """Read ``json/crowdpose_{split}.json`` or ``annotations/crowdpose_{split}.json``, and ``images``."""
    annotations = find_annotations([root / f / f"crowdpose_{split}.json" for f in ("json", "annotations")])
    return _read("crowdpose", "crowdpose14", annotations, [root / "images"])


def _read(kind: str, skeleton: str, path: Path, folders: list[Path]) -> PoseData:
    content = read_json(path)
    lists = content if isinstance(content, dict) else {}
    if not has_objects(lists.get("images"), "file_name") or not has_objects(lists.get("annotations"), "keypoints"):
        raise refuse_kind(path, content, "COCO's lists of images and of annotations with keypoints")
    intake = Intake(kind, skeleton, path, folders)
    is_person, persons = persons_of(content), dict[int | None, list[dict[str, Any]]]()
    for annotation in content["annotations"]:
        if is_person(annotation):
            persons.setdefault(whole_number(annotation.get("image_id")), []).append(annotation)
        else:
            _skip(intake, "another category than person", annotation)
    pictures = dict[int, dict[str, Any]]()
    for picture in content["images"]:
        if (number := whole_number(picture.get("id"))) is None:
            intake.skip("damaged picture entry", str(picture.get("file_name")))
        else:
            pictures[number] = picture  # once: some tools repeat the entry of a picture for each of its persons
    count = len(get_skeleton(skeleton).joints)
    for number, picture in pictures.items():
        _read_picture(intake, number, picture, persons.pop(number, []), count)
    for annotation in chain.from_iterable(persons.values()):
        _skip(intake, "annotation of an unlisted picture", annotation)
    return intake.finish()


def _skip(intake: Intake, reason: str, annotation: dict[str, Any]) -> None:
    intake.skip(reason, f"picture {annotation.get('image_id')}: annotation {annotation.get('id')}")


def _read_picture(
    intake: Intake, number: int, picture: dict[str, Any], persons: list[dict[str, Any]], count: int
) -> None:
    try:
        name = str(picture["file_name"])
        size = float(picture.get("width", math.inf)), float(picture.get("height", math.inf))
    except DAMAGED:
        intake.skip("damaged picture entry", str(picture.get("file_name")))
        return
    path = intake.picture(number, name)
    for annotation in persons if path else []:
        person = _read_person(annotation, size, count)
        if isinstance(person, str):
            intake.skip(person, f"{name}: annotation {annotation.get('id')}")
        elif path:
            intake.data.samples.append(PoseSample(path, *person, number))


def _read_person(annotation: dict[str, Any], size: tuple[float, float], count: int) -> PersonLabels | str:
    """Return an annotation's labels, or why it cannot be used; ``size`` is the picture's (width, height)."""
    try:
        crowd, area = bool(annotation.get("iscrowd")), float(annotation.get("area", 1))
        keypoints = np.asarray(annotation.get("keypoints", []), dtype=np.float64)
        x, y, width, height = (float(value) for value in annotation["bbox"])
    except DAMAGED:
        return "damaged annotation"
    if crowd:
        return "crowd"
    if not keypoints.any():
        return "no labelled joint"
    if keypoints.shape != (3 * count,):
        return f"wrong number of joints (expected {count})"
    keypoints = keypoints.reshape(count, 3)
    if not (keypoints[:, 2] > 0).any():
        return "no labelled joint"
    if not plausible(keypoints, x, y, width, height):
        return "damaged annotation"
    if min(width, height, area) <= 0:
        return "no area"
    if x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0:
        return "box outside the picture"
    # HRNet's box reaches from the first to the last pixel: a negative x or y becomes 0 with the box's size unchanged,
    # and the far corner is then clipped to the picture.
    x, y = max(0.0, x), max(0.0, y)
    right, bottom = x + max(0.0, width - 1), y + max(0.0, height - 1)
    box = np.array([x, y, min(size[0] - 1, right), min(size[1] - 1, bottom)])
    return keypoints[:, :2], keypoints[:, 2] > 0, box


#: Id of the category "person" in COCO's files and in results.
PERSON = 1


def whole_number(value: Any) -> int | None:
    """Parse an id, which some tools write as text; return None if it is not an integer.

    >>> whole_number("000139"), whole_number(139.0), whole_number(0.5), whole_number("a")
    (139, 139, None, None)
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(value, float) and number != value else number


def persons_of(content: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    """Return a function that decides whether an annotation of a COCO-style file is of a person.

    The annotation's category must be missing, or the one that the file names "person" (1 if the file names none).
    """
    categories = content.get("categories")
    named = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
    person = next((whole_number(c.get("id")) for c in named if c.get("name") == "person"), PERSON)
    return lambda annotation: whole_number(annotation.get("category_id", person)) == person
