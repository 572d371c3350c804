"""Read the boxes that a detector found, to evaluate with them in place of the labelled boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UsageError
from ..core.skeletons import get_skeleton
from .categories import PERSON, whole_number
from .reading import DAMAGED, plausible, read_list
from .samples import PoseData, PoseSample, describe_skipped


def detected_samples(data: PoseData, boxes: Path) -> PoseData:
    """Return ``data`` with the persons that a detector found in its pictures, in place of the labelled persons.

    They have no visible joints, and the detector's scores; ``skipped`` names entries.

    Args:
        data: the labelled split.
        boxes: COCO detection results, a JSON list of ``{image_id, category_id, bbox [x, y, w, h], score}``; categories
            other than 1 (person) are left out. As in HRNet, boxes are not clipped to the picture.

    Raises:
        UsageError: the metric of ``data`` cannot use detected boxes, or the file is missing, damaged or of another
            kind, or has no person in these pictures.
    """
    if not data.scored_by_oks:
        raise UsageError(f"{data.kind} is scored on labelled boxes: leave the detected boxes out (they are for coco)")
    wanted = "COCO's list of image_id, category_id, bbox and score"
    entries = read_list(boxes, wanted, "image_id", "bbox", "score")
    found = replace(data, samples=[], skipped={})
    for index, entry in enumerate(entries):
        if whole_number(entry.get("category_id", PERSON)) != PERSON:
            continue
        person = _read_entry(entry, data)
        if isinstance(person, str):
            found.skipped.setdefault(person, []).append(f"entry {index}")
        else:
            found.samples.append(person)
    if not found.samples:
        none = f"{len(entries)} entries" + (f", none of category {PERSON}" if entries else "")
        why = f"({describe_skipped(found) or none}): run the detector on those pictures"
        raise UsageError(f"{boxes} has no person in the pictures of {data.annotations} {why}")
    return found


def _read_entry(entry: dict[str, Any], data: PoseData) -> PoseSample | str:
    """Return the person of an entry, or the reason why it cannot be used."""
    try:
        number, score = int(entry["image_id"]), float(entry["score"])
        x, y, width, height = (float(value) for value in entry["bbox"])
    except DAMAGED:
        return "damaged entry"
    if not plausible(x, y, width, height, score):
        return "damaged entry"
    if number not in data.pictures:
        return "picture not in the data"
    if min(width, height) <= 0:
        return "no area"
    if min(width, height) < 1:
        return "smaller than a pixel"
    joints = len(get_skeleton(data.skeleton).joints)
    points, visible = np.zeros((joints, 2)), np.zeros(joints, dtype=bool)
    box = np.array([x, y, x + width, y + height])
    return PoseSample(data.pictures[number], points, visible, box, number, score, size=data.sizes.get(number))
