"""Read the list of COCO's test-dev pictures, whose labels only COCO's evaluation server has."""

from __future__ import annotations

from pathlib import Path

from .categories import whole_number
from .reading import DAMAGED, Intake, find_annotations, has_objects, read_json, refuse_kind
from .samples import PoseData


def load_test_dev(root: Path) -> PoseData:
    """Read ``annotations/image_info_test-dev2017.json``: every picture that exists, in the list's order, no persons.

    The pictures are in ``test2017``, ``images/test2017``, ``test`` or ``images/test``: COCO's test pictures, of which
    test-dev is about a half.

    Raises:
        UsageError: the list is missing, damaged or of another kind, or none of its pictures is there.
    """
    path = find_annotations([root / "annotations/image_info_test-dev2017.json"])
    content = read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    if not images or not has_objects(images, "id", "file_name"):
        raise refuse_kind(path, content, "COCO's list of images with id and file_name")
    folders = [root / folder for folder in ("test2017", "images/test2017", "test", "images/test")]
    intake = Intake("coco", "coco17", path, folders)
    for image in images:
        try:
            number, name = whole_number(image["id"]), str(image["file_name"])
        except DAMAGED:
            number, name = None, str(image.get("file_name"))
        if number is None:
            intake.skip("damaged picture entry", name)
        else:
            intake.picture(number, name)
    return intake.finish(labelled=False)
