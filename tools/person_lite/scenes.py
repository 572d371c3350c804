"""Read pictures with boxes of persons: COCO's labels, and LSP's athletes with what a detector finds around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.core.boxes import box_iou
from edgepose.core.errors import UsageError
from edgepose.data.categories import person_category, whole_number
from edgepose.data.reading import DAMAGED, read_json
from edgepose.data.samples import PoseSample

#: A box that was found counts as a person from this score on; a less certain one is ignored: neither person nor
#: background.
CERTAIN = 0.4
#: A box that was found replaces the box around the labelled athlete's joints if the two overlap by this IoU: it fits
#: the outline better.
SAME_PERSON = 0.4

#: Boxes (N, 4) xyxy in pixels and scores (N,) of the persons in a picture, by the picture's file name.
Found = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Scene:
    """One picture with its labels.

    Attributes:
        image: path of the file.
        boxes: (P, 4) float64 xyxy in pixels, every person.
        ignored: (R, 4) float64 xyxy: crowds, and what may be a person or not.
    """

    image: Path
    boxes: NDArray[np.float64]
    ignored: NDArray[np.float64]


def coco_scenes(annotations: Path, folder: Path) -> list[Scene]:
    """Read the persons of a COCO annotation file; crowds become ignored regions, pictures without persons are kept.

    Args:
        annotations: such as ``person_keypoints_train2017.json``.
        folder: of the pictures.

    Raises:
        UsageError: the file cannot be read or holds something else, or pictures are missing.
    """
    content = read_json(annotations)
    try:
        names = {whole_number(image["id"]): image["file_name"] for image in content["images"]}
        people: dict[int | None, list[list[float]]] = {number: [] for number in names}
        for label in filter(person_category(annotations, content).holds, content["annotations"]):
            x, y, width, height = map(float, label["bbox"])
            box = [x, y, x + width, y + height, float(label.get("iscrowd", 0))]
            people[whole_number(label["image_id"])].append(box)
    except (*DAMAGED, AttributeError) as error:
        raise UsageError(
            f"{annotations} does not hold COCO annotations: expected images and boxes ({error!r})"
        ) from error
    if not names:
        raise UsageError(f"{annotations} names no picture: expected a training split")
    missing = [name for name in names.values() if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{len(missing)} of {len(names)} pictures are not in {folder}, such as {missing[0]}")
    rows = {number: np.array(mine, dtype=np.float64).reshape(-1, 5) for number, mine in people.items()}
    return [
        Scene(folder / names[number], mine[mine[:, 4] == 0, :4], mine[mine[:, 4] != 0, :4])
        for number, mine in rows.items()
    ]


def lsp_scenes(samples: Iterable[PoseSample], found: Found) -> list[Scene]:
    """Join the labelled athletes of LSP with the people that a detector found around them.

    Args:
        samples: one person per picture, such as those of :func:`edgepose.data.load_data`.
        found: the detector's results; a picture without any shows the athlete alone.
    """
    nothing = np.zeros((0, 4)), np.zeros(0)
    return [merge(sample.image, sample.box, *found.get(sample.image.name, nothing)) for sample in samples]


def merge(image: Path, athlete: NDArray[np.float64], boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> Scene:
    """Make one scene from a labelled athlete and from what a detector found: see :data:`SAME_PERSON`, :data:`CERTAIN`.

    Args:
        image: path of the file.
        athlete: (4,) xyxy around the athlete's joints.
        boxes: (N, 4) xyxy.
        scores: (N,) in 0..1.
    """
    overlap = box_iou(boxes, athlete[None])[:, 0]
    certain = scores >= CERTAIN
    if len(boxes) and overlap.max() >= SAME_PERSON:
        certain = certain | (np.arange(len(boxes)) == overlap.argmax())
        return Scene(image, boxes[certain], boxes[~certain])
    return Scene(image, np.concatenate([boxes[certain], athlete[None]]), boxes[~certain])
