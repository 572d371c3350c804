"""Boxes that a detector found, in place of the labelled ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UsageError
from ..core.skeletons import get_skeleton
from .reading import DAMAGED, describe_kind, has_objects, plausible, read_json
from .samples import PoseData, PoseSample, describe_skipped

#: COCO's category of persons.
_PERSON = 1


def detected_samples(data: PoseData, boxes: Path) -> PoseData:
    """The pictures of ``data`` with the persons that a detector found in them, for evaluation with detected boxes.

    Args:
        data: the labelled split.
        boxes: COCO detection results, a JSON list of ``{image_id, category_id, bbox [x, y, w, h], score}``; other
            categories than 1 (person) are left out. As in HRNet, boxes are not clipped to the picture.

    Returns:
        ``data`` with other samples: no joint is visible, ``score`` is the detector's. ``skipped`` is about ``boxes``.

    Raises:
        UsageError: the measure of ``data`` has no use for detected boxes, or the file is missing, damaged or of another
            kind, or has no person in these pictures.
    """
    if not data.scored_by_oks:
        raise UsageError(f"{data.kind} is scored person by person: leave the detected boxes out (they are for coco)")
    entries = read_json(boxes)
    if not has_objects(entries, "image_id", "bbox", "score"):
        wanted = "COCO's list of image_id, category_id, bbox and score"
        raise UsageError(f"{boxes} is {describe_kind(entries)}, expected {wanted}")
    found = replace(data, samples=[], skipped={})
    for index, entry in enumerate(entries):
        if entry.get("category_id", _PERSON) != _PERSON:
            continue
        person = _read_entry(entry, data)
        if isinstance(person, str):
            found.skipped.setdefault(person, []).append(f"entry {index}")
        else:
            found.samples.append(person)
    if not found.samples:
        why = describe_skipped(found) or f"{len(entries)} entries"
        raise UsageError(
            f"{boxes} has no person in the pictures of {data.annotations} ({why}): detect in those pictures"
        )
    return found


def _read_entry(entry: dict[str, Any], data: PoseData) -> PoseSample | str:
    """A person of the results, or why it cannot be used."""
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
    joints = len(get_skeleton(data.skeleton).joints)
    nowhere, unseen = np.zeros((joints, 2)), np.zeros(joints, dtype=bool)
    return PoseSample(data.pictures[number], nowhere, unseen, np.array([x, y, x + width, y + height]), number, score)
