"""Pictures with boxes of persons: COCO's labels, and LSP's athletes with what a detector finds around them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.core.errors import UsageError
from edgepose.data.samples import PoseSample

#: COCO's category id.
PERSON = 1
#: A found person counts as one from this score on; a less certain one is left open: neither person nor background.
CERTAIN = 0.4
#: A found box is the labelled athlete's where the two overlap by this IoU; it fits the outline better than one that is
#: drawn around joints.
SAME_PERSON = 0.4

#: Boxes (N, 4) xyxy in pixels and scores (N,) of the persons in a picture, by the picture's file name.
Found = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Scene:
    """One picture.

    Attributes:
        image: path of the file.
        boxes: (P, 4) float64 xyxy in pixels, every person.
        ignored: (R, 4) float64 xyxy: crowds, and what may be a person or not.
    """

    image: Path
    boxes: NDArray[np.float64]
    ignored: NDArray[np.float64]


def coco_scenes(annotations: Path, folder: Path) -> list[Scene]:
    """The persons of a COCO annotation file (category 1); crowds are ignored regions, pictures without persons stay.

    Args:
        annotations: such as ``person_keypoints_train2017.json``.
        folder: of the pictures.

    Raises:
        UsageError: the file cannot be read or holds something else, or pictures are missing.
    """
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in content["images"]}
        people: dict[int, list[list[float]]] = {image_id: [] for image_id in names}
        for label in content["annotations"]:
            if label["category_id"] == PERSON:
                x, y, width, height = map(float, label["bbox"])
                people[label["image_id"]].append([x, y, x + width, y + height, float(label.get("iscrowd", 0))])
    except OSError as error:
        raise UsageError(f"cannot read {annotations}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{annotations} does not hold COCO annotations: expected images and boxes ({error!r})"
        ) from error
    if not names:
        raise UsageError(f"{annotations} names no picture: expected a training split")
    missing = [name for name in names.values() if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{len(missing)} of {len(names)} pictures are not in {folder}, such as {missing[0]}")
    rows = {image_id: np.array(mine, dtype=np.float64).reshape(-1, 5) for image_id, mine in people.items()}
    return [
        Scene(folder / names[image_id], mine[mine[:, 4] == 0, :4], mine[mine[:, 4] != 0, :4])
        for image_id, mine in rows.items()
    ]


def lsp_scenes(samples: Iterable[PoseSample], found: Found) -> list[Scene]:
    """The labelled athletes of LSP, and the people that a detector found around them.

    Args:
        samples: one person a picture, such as those of :func:`edgepose.data.load_data`.
        found: the detector's answers; a picture that is not in it has its athlete alone.
    """
    nothing = np.zeros((0, 4)), np.zeros(0)
    return [merge(sample.image, sample.box, *found.get(sample.image.name, nothing)) for sample in samples]


def merge(image: Path, athlete: NDArray[np.float64], boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> Scene:
    """One scene from a labelled athlete and from what a detector found: see :data:`SAME_PERSON`, :data:`CERTAIN`.

    Args:
        image: path of the file.
        athlete: (4,) xyxy around his joints.
        boxes: (N, 4) xyxy.
        scores: (N,) in 0..1.
    """
    low, high = np.maximum(boxes[:, :2], athlete[:2]), np.minimum(boxes[:, 2:], athlete[2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    overlap = shared / (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(athlete[2:] - athlete[:2]) - shared)
    certain = scores >= CERTAIN
    if len(boxes) and overlap.max() >= SAME_PERSON:
        certain = certain | (np.arange(len(boxes)) == overlap.argmax())
        return Scene(image, boxes[certain], boxes[~certain])
    return Scene(image, np.concatenate([boxes[certain], athlete[None]]), boxes[~certain])
