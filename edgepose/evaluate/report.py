"""The report of an evaluation: a table, JSON, and a picture of the worst crops."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..accuracy.scoring import Person, Scores
from ..backends.environment import environment
from ..core.files import write_text
from ..core.geometry import Size, crop_regions, region_affine, transform_points, warp_crop
from ..core.images import contact_sheet, read_image, write_image
from ..core.pictures import draw_pair
from ..core.report import Report
from ..core.skeletons import Skeleton
from ..data.samples import PoseData, describe_skipped

#: Layout of the picture of the worst crops: crops per row, and the height of a line of text in pixels.
_COLUMNS, _LINE = 5, 34


@dataclass(frozen=True)
class Accuracy(Report):
    """The accuracy of a network on a data set; as text the main figure, the settings, other figures, and the joints.

    The settings are those of :func:`edgepose.evaluate.evaluate`, with the backend and precision that ran; ``split``
    holds the labelled persons and what was skipped, ``input_size`` is (height, width) of the crops, ``crop_padding``
    the factor from a box to its crop, and ``scores`` are in percent.
    """

    target: str
    backend: str
    precision: str
    data: str
    split: PoseData
    boxes: str
    flip: bool
    decode: str
    input_size: Size
    crop_padding: float
    scores: Scores

    def __str__(self) -> str:
        scores = self.scores
        ways = [
            f"{len(scores.persons)} persons in {len(self.split.pictures)} pictures",
            f"{self.backend} {self.precision}",
            "labelled boxes" if self.boxes == "gt" else f"boxes of {self.boxes}",
            *(["flip test"] if self.flip else []),
            *(["dark decoding"] if self.decode == "dark" else []),
        ]
        lines = [scores.headline, ", ".join(ways)]
        lines += [f"  {name:<16}{_percent(value)}" for name, value in scores.figures.items()]
        lines += [f"{scores.per_joint_name}:"]
        lines += [f"  {name:<16}{_percent(value)}" for name, value in scores.per_joint.items()]
        skipped = describe_skipped(self.split)
        return "\n".join([*lines, skipped] if skipped else lines)

    def to_json(self) -> dict[str, Any]:
        """Return everything except the keypoints as JSON values."""
        scores, settings = self.scores, ("boxes", "flip", "decode", "input_size", "crop_padding")
        return {
            **{name: getattr(self, name) for name in ("target", "backend", "precision", "data")},
            "annotations": str(self.split.annotations),
            "settings": {name: getattr(self, name) for name in settings},
            "metric": scores.name,
            "value": scores.value,
            "figures": scores.figures,
            "per_joint_is": scores.per_joint_name,
            "per_joint": scores.per_joint,
            "persons": len(scores.persons),
            "pictures": len(self.split.pictures),
            "results": len(scores.results),
            "skipped": self.split.skipped,
            "environment": environment(),
        }

    def save_results(self, path: Path) -> None:
        """Write the keypoints as COCO results; on COCO, pycocotools computes the same figures from them."""
        write_text(path, json.dumps(self.scores.results) + "\n")

    def draw_worst(self, path: Path, count: int = 25) -> None:
        """Draw the ``count`` persons with the lowest scores into one picture: crop, both skeletons, score and file."""
        worst = sorted(self.scores.persons, key=lambda person: person.score)[:count]
        tiles = [draw_person(person, self.scores.skeleton, self.input_size, self.crop_padding) for person in worst]
        sheet = contact_sheet(tiles, _COLUMNS)
        write_image(path, np.concatenate([_line("labelled: blue, wide; found: orange, thin", sheet.shape[1]), sheet]))


def _percent(value: float | None) -> str:
    return "not labelled" if value is None else f"{value:6.1f} %"


def draw_person(person: Person, skeleton: Skeleton, size: Size, padding: float) -> NDArray[np.uint8]:
    """Return the enlarged crop of a person with both skeletons, and a caption with score and file, (h, w, 3) uint8."""
    matrix = region_affine(crop_regions(person.sample.box, size, padding)[0], size)
    labelled = np.column_stack([person.sample.joints, person.sample.visible])
    pair = [
        np.column_stack([transform_points(points[:, :2], matrix), points[:, 2]])
        for points in (labelled, person.keypoints)
    ]
    crop = draw_pair(warp_crop(read_image(person.sample.image), matrix, size), pair[0], pair[1], skeleton)
    return np.concatenate([crop, _line(f"{person.score:.0f} %  {person.sample.image.name}", crop.shape[1])])


def _line(text: str, width: int) -> NDArray[np.uint8]:
    """Return a picture of black text on white."""
    line = np.full((_LINE, width, 3), 255, dtype=np.uint8)
    cv2.putText(line, text, (6, _LINE - 11), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return line
