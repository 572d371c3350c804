"""Read the keypoint annotations of COCO, and of CrowdPose, which has the same format."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.skeletons import get_skeleton
from .annotation import JointReader, read_person
from .categories import person_category, whole_number
from .joint_names import joint_order
from .reading import DAMAGED, Intake, find_annotations, has_objects, read_json, refuse_kind
from .samples import PoseData, PoseSample, first_five


def load_coco(root: Path, split: str) -> PoseData:
    """Read ``annotations/person_keypoints_{split}2017.json``, or a file of that name without the year.

    The pictures are in ``{split}2017``, ``images/{split}2017``, ``{split}``, ``images/{split}``, ``images`` or
    ``root`` itself.
    """
    names = [f"person_keypoints_{split}{year}.json" for year in ("2017", "")]
    annotations = find_annotations([root / "annotations" / name for name in names])
    folders = (f"{split}2017", f"images/{split}2017", split, f"images/{split}", "images")
    return _read(Intake("coco", "coco17", annotations, [*(root / folder for folder in folders), root]))


def load_crowdpose(root: Path, split: str) -> PoseData:
    """Read ``json/crowdpose_{split}.json`` or ``annotations/crowdpose_{split}.json``; pictures as for MPII."""
    annotations = find_annotations([root / f / f"crowdpose_{split}.json" for f in ("json", "annotations")])
    return _read(Intake("crowdpose", "crowdpose14", annotations, [root / "images", root]))


def _read(intake: Intake) -> PoseData:
    path = intake.data.annotations
    content = read_json(path)
    lists = content if isinstance(content, dict) else {}
    if not has_objects(lists.get("images"), "file_name") or not has_objects(lists.get("annotations"), "keypoints"):
        raise refuse_kind(path, content, "COCO's lists of images and of annotations with keypoints")
    category, persons = person_category(path, content), dict[int | None, list[dict[str, Any]]]()
    joints = _joint_reader(path, category.joints, intake.data.skeleton)
    for annotation in content["annotations"]:
        if category.holds(annotation):
            persons.setdefault(whole_number(annotation.get("image_id")), []).append(annotation)
        else:
            _skip(intake, "another category than person", annotation)
    if content["annotations"] and not persons:
        used = sorted({str(annotation.get("category_id")) for annotation in content["annotations"]})
        raise UsageError(
            f"{path} has no annotation of the persons' category, {category}, but of {first_five(used)}: correct the ids"
        )
    for number, picture in _pictures(intake, content["images"]).items():
        _read_picture(intake, number, picture, persons.pop(number, []), joints)
    for annotation in chain.from_iterable(persons.values()):
        _skip(intake, "annotation of an unlisted picture", annotation)
    return intake.finish()


def _pictures(intake: Intake, entries: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the entries of pictures by number, once: some tools repeat a picture's for each of its persons."""
    pictures = dict[int, dict[str, Any]]()
    for picture in entries:
        name = str(picture.get("file_name"))
        if (number := whole_number(picture.get("id"))) is None:
            intake.skip("damaged picture entry", name)
        elif (other := str(pictures.setdefault(number, picture).get("file_name"))) != name:
            raise UsageError(
                f"{intake.data.annotations} gives the id {number} to two pictures, {other!r} and {name!r}: number them "
                "anew"
            )
    return pictures


def _joint_reader(path: Path, names: tuple[str, ...], skeleton: str) -> JointReader:
    wanted = get_skeleton(skeleton)
    if not names:
        return JointReader(len(wanted.joints))
    try:
        return JointReader(len(wanted.joints), tuple(joint_order(names, wanted)), len(names))
    except UsageError as error:
        raise UsageError(
            f"{path} has {error}: rename those that only have other names, or leave the category's list 'keypoints' "
            "out if they are in this skeleton's order"
        ) from error


def _skip(intake: Intake, reason: str, annotation: dict[str, Any]) -> None:
    intake.skip(reason, f"picture {annotation.get('image_id')}: annotation {annotation.get('id')}")


def _read_picture(
    intake: Intake, number: int, picture: dict[str, Any], persons: list[dict[str, Any]], joints: JointReader
) -> None:
    try:
        name = str(picture["file_name"])
        width, height = (round(float(picture.get(side) or 0)) for side in ("width", "height"))
    except DAMAGED:
        intake.skip("damaged picture entry", str(picture.get("file_name")))
        return
    path = intake.picture(number, name)
    if path is None:
        return
    data, size = intake.data, (height, width) if min(width, height) > 0 else None
    if size:
        data.sizes[number] = size
    if (crowd := picture.get("crowdIndex")) is not None and isinstance(crowd, (int, float)):
        data.crowding[number] = crowd
    for annotation in persons:
        label, box = read_person(annotation, number, size or (math.inf, math.inf), joints)
        if label and data.kind == "crowdpose" and whole_number(annotation.get("num_keypoints")) == 0:
            # CrowdPose's number leaves hidden joints out, and its evaluation ignores persons with 0.
            label = replace(label, counted=False)
        if label:
            data.labels.append(label)
        if isinstance(box, str):
            intake.skip(box, f"{name}: annotation {annotation.get('id')}")
        elif label:
            data.samples.append(PoseSample(path, label.joints, label.visible, box, number, size=size))
