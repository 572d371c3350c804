"""The report of an evaluation: a table, JSON, and a picture of the worst crops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..accuracy.coco import Result
from ..accuracy.scoring import Person, Scores
from ..backends.environment import environment
from ..bundle.tasks import Outputs, map_pictures
from ..core.files import write_text
from ..core.geometry import Size, crop_regions, region_affine, transform_points, warp_crop
from ..core.images import contact_sheet, read_image, write_image
from ..core.pictures import draw_pair
from ..core.report import Report
from ..core.skeletons import Skeleton
from ..data.samples import PoseData, describe_skipped

#: Layout of the picture of the worst crops: crops per row, and the height of a line of text in pixels.
_COLUMNS, _LINE = 5, 34
#: Number of persons that are drawn.
WORST = 25


@dataclass(frozen=True)
class Evaluation(Report):
    """What was run, and how.

    The settings are those of :func:`edgepose.evaluate.evaluate`, with the backend and precision that ran; ``split``
    holds the pictures, the labelled persons and what was skipped, ``input_size`` is (height, width) of the crops, and
    ``crop_padding`` the factor from a box to its crop.
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

    def ways(self, published: str | None) -> str:
        """Return the settings in one line; ``published`` is why they are those of a paper, or None."""
        words = [
            f"{self.backend} {self.precision}",
            "labelled boxes" if self.boxes == "gt" else f"boxes of {self.boxes}",
            *(["flip test"] if self.flip else []),
            *(["dark decoding"] if self.decode == "dark" else []),
        ]
        if published is not None:
            words.append(f"as published: {'flip test' if self.flip else 'no flip test'} ({published})")
            if self.boxes == "gt" and self.split.kind == "coco":
                words.append("but the papers' tables of COCO have detected boxes (--boxes)")
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return the settings, and what was skipped, as JSON values."""
        settings = ("boxes", "flip", "decode", "input_size", "crop_padding")
        return {
            **{name: getattr(self, name) for name in ("target", "backend", "precision", "data")},
            "annotations": str(self.split.annotations),
            "settings": {name: getattr(self, name) for name in settings},
            "pictures": len(self.split.pictures),
            "skipped": self.split.skipped,
            "environment": environment(),
        }


@dataclass(frozen=True)
class Accuracy(Evaluation):
    """The accuracy of a network on a data set; as text the main figure, the settings, other figures, and the joints.

    Attributes:
        scores: in percent.
        published: where the flip test of the network's paper is described, if it decided on ``flip``; else None.
        maps: number of a person in ``scores.persons`` to the further maps of the labelled box's crop, by output name.
    """

    scores: Scores
    published: str | None = None
    maps: Mapping[int, Outputs] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        scores = self.scores
        counts = f"{len(scores.persons)} persons in {len(self.split.pictures)} pictures"
        lines = [scores.headline, f"{counts}, {self.ways(self.published)}"]
        lines += [f"  {name:<16}{_percent(value)}" for name, value in scores.figures.items()]
        lines += [f"{scores.per_joint_name}:"]
        lines += [f"  {name:<16}{_percent(value)}" for name, value in scores.per_joint.items()]
        skipped = describe_skipped(self.split)
        return "\n".join([*lines, skipped] if skipped else lines)

    def to_json(self) -> dict[str, Any]:
        """Return everything except the keypoints as JSON values."""
        scores = self.scores
        return {
            **super().to_json(),
            "published": self.published,
            "metric": scores.name,
            "value": scores.value,
            "figures": scores.figures,
            "per_joint_is": scores.per_joint_name,
            "per_joint": scores.per_joint,
            "persons": len(scores.persons),
            "results": len(scores.results),
        }

    def save_results(self, path: Path) -> None:
        """Write the keypoints as COCO results; on COCO, pycocotools computes the same figures from them."""
        write_text(path, json.dumps(self.scores.results) + "\n")

    def draw_worst(self, path: Path, count: int = WORST) -> None:
        """Draw the ``count`` persons with the lowest scores into one picture: crop, both skeletons, score and file.

        Beside each, the maps that were kept of them.
        """
        scores, worst = self.scores, self.scores.worst(count)
        kept = all(i in self.maps for i in worst)  # tiles must have one size
        tiles = [
            draw_person(
                scores.persons[i], scores.skeleton, self.input_size, self.crop_padding, self.maps[i] if kept else {}
            )
            for i in worst
        ]
        sheet = contact_sheet(tiles, _COLUMNS)
        beside = dict.fromkeys(name for i in worst if kept for name in self.maps[i])
        legend = "; ".join(["labelled: blue, wide; found: orange, thin", *(f"on the right: {name}" for name in beside)])
        write_image(path, np.concatenate([_line(legend, sheet.shape[1]), sheet]))


@dataclass(frozen=True)
class ServerResults(Evaluation):
    """Poses on COCO's test-dev, for its evaluation server: without labels there is no accuracy.

    Attributes:
        results: in COCO's format, rescored and without duplicates, grouped by picture in the list's order.
        published: as in :class:`Accuracy`.
    """

    results: list[Result]
    published: str | None = None

    def __str__(self) -> str:
        empty = len(self.split.pictures) - len({entry["image_id"] for entry in self.results})
        lines = [
            "no AP: only COCO's evaluation server has the labels of test-dev; it takes a zip of one file, "
            "person_keypoints_test-dev2017_NAME_results.json",
            f"{len(self.results)} poses in {len(self.split.pictures)} pictures, {empty} of them without a detection, "
            f"{self.ways(self.published)}",
        ]
        skipped = describe_skipped(self.split)
        return "\n".join([*lines, skipped] if skipped else lines)

    def to_json(self) -> dict[str, Any]:
        """Return everything except the keypoints as JSON values."""
        return {**super().to_json(), "published": self.published, "results": len(self.results)}

    def save_results(self, path: Path) -> None:
        """Write the results file for the server."""
        write_text(path, json.dumps(self.results) + "\n")


def _percent(value: float | None) -> str:
    return "not labelled" if value is None else f"{value:6.1f} %"


def draw_person(
    person: Person, skeleton: Skeleton, size: Size, padding: float, maps: Outputs = MappingProxyType({})
) -> NDArray[np.uint8]:
    """Return the enlarged crop of a person with both skeletons, then ``maps``, above a caption with score and file.

    ``size`` is (height, width) of the crop; the picture is (h, w, 3) uint8 RGB.
    """
    matrix = region_affine(crop_regions(person.sample.box, size, padding)[0], size)
    labelled = np.column_stack([person.sample.joints, person.sample.visible])
    pair = [
        np.column_stack([transform_points(points[:, :2], matrix), points[:, 2]])
        for points in (labelled, person.keypoints)
    ]
    crop = warp_crop(read_image(person.sample.image), matrix, size)
    tile = np.concatenate([draw_pair(crop, pair[0], pair[1], skeleton), *map_pictures(crop, maps, skeleton)], axis=1)
    return np.concatenate([tile, _line(f"{person.score:.0f} %  {person.sample.image.name}", tile.shape[1])])


def _line(text: str, width: int) -> NDArray[np.uint8]:
    """Return a picture of black text on white."""
    line = np.full((_LINE, width, 3), 255, dtype=np.uint8)
    cv2.putText(line, text, (6, _LINE - 11), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return line
