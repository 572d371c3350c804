"""Small data sets in COCO's layout."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

#: A person who can be used: the nose at (30, 40), in a picture of 100 x 80.
PERSON: dict[str, Any] = {
    "id": 7,
    "image_id": 1,
    "category_id": 1,
    "iscrowd": 0,
    "area": 1200.0,
    "bbox": [10, 20, 40, 50],
    "num_keypoints": 1,
    "keypoints": [30, 40, 2, *[0] * 48],
}
CONTENT: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
    "annotations": [PERSON],
    "categories": [{"id": 1, "name": "person"}],
}


def make_root(root: Path, content: Any, *pictures: str, file: str = "person_keypoints_val2017.json") -> str:
    """A folder in COCO's layout: ``content`` (JSON, or a file to link to), and empty files for pictures."""
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    if isinstance(content, Path):
        (root / "annotations" / file).symlink_to(content)
    else:
        (root / "annotations" / file).write_text(content if isinstance(content, str) else json.dumps(content))
    for name in pictures:
        (root / "val2017" / name).touch()
    return f"coco:{root}"


def with_person(**changes: Any) -> dict[str, Any]:
    """The content with a second person, number 8, who differs in some fields; None leaves a field out."""
    content = deepcopy(CONTENT)
    person = {key: value for key, value in {**PERSON, "id": 8, **changes}.items() if value is not None}
    content["annotations"].append(person)
    return content


#: Reason to a content whose second person, number 8, is skipped for it.
BROKEN = {
    "crowd": with_person(iscrowd=1),
    "no labelled joint": with_person(keypoints=[0] * 51),
    "no labelled joint (none)": with_person(keypoints=None),
    "no labelled joint (places, not seen)": with_person(keypoints=[30, 40, 0] * 17),
    "no area": with_person(area=0),
    "no area (flat box)": with_person(bbox=[10, 20, 40, 0]),
    "box outside the picture": with_person(bbox=[100, 20, 40, 50]),
    "box outside the picture (left)": with_person(bbox=[-41, 20, 40, 50]),
    "wrong number of joints (expected 17)": with_person(keypoints=[30, 40, 2] * 14),
    "damaged annotation": with_person(bbox=[10, 20, 40]),
    "damaged annotation (no box)": with_person(bbox=None),
    "damaged annotation (text)": with_person(keypoints=["x"] * 51),
    "damaged annotation (NaN)": with_person(keypoints=[float("nan"), 40, 2] * 17),
    "damaged annotation (list)": with_person(area=[1]),
    "damaged annotation (huge)": with_person(keypoints=[1e30, 40, 2] * 17),
    "damaged annotation (no number)": with_person(bbox=[10, 20, 10**400, 50]),
    "damaged annotation (area NaN)": with_person(area=float("nan")),
    "damaged annotation (area infinite)": with_person(area=float("inf")),
    "damaged annotation (crowd of text)": with_person(iscrowd="no"),
    "smaller than a pixel": with_person(bbox=[0.1, 0.25, 0.4, 0.6], keypoints=[0.3, 0.5, 2] * 17),
    "smaller than a pixel (the joints)": with_person(keypoints=[0.3, 0.5, 2] * 17),
    "smaller than a pixel (the box)": with_person(bbox=[0.1, 0.25, 0.4, 0.6]),
    "smaller than a pixel (the area)": with_person(area=0.15),
    "box far outside the picture": with_person(bbox=[10, 20, 191, 50]),
    "box far outside the picture (left)": with_person(bbox=[-101, 20, 120, 50]),
    "box far outside the picture (below)": with_person(bbox=[10, 20, 40, 141]),
    "box far outside the picture (above)": with_person(bbox=[10, -81, 40, 120]),
    "area that does not fit the box": with_person(area=4001),
    "area that does not fit the box (small)": with_person(area=19),
    "joints far from the box": with_person(keypoints=[91, 40, 2] * 17),
}
