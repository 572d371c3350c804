"""The form into which all data sets are read: persons with joints and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PoseSample:
    """One person: labelled, or found by a detector.

    Attributes:
        image: path of the image file.
        joints: (J, 2) float64 x, y in image pixels.
        visible: (J,) bool, True where labelled.
        box: (4,) float64 xyxy in image pixels.
        image_id: number of the image in its data set.
        score: the box's score; 1 for a labelled box.
        head_size: PCKh's reference length in pixels (0.6 x the diagonal of MPII's head box); NaN if unknown.
    """

    image: Path
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    box: NDArray[np.float64]
    image_id: int = 0
    score: float = 1.0
    head_size: float = float("nan")


@dataclass(frozen=True)
class PoseData:
    """One split of a data set.

    Attributes:
        kind: ``coco``, ``crowdpose``, ``mpii`` or ``lsp``; decides the metric.
        skeleton: name of the labelled skeleton.
        samples: the persons that can be used.
        annotations: the file with the labels.
        skipped: reason to the names of the pictures or annotations that cannot be used, such as
            ``{"no labelled joint": ["000000001000.jpg: annotation 183020"]}``.
        pictures: image number to path, for every existing picture of the split, also without a usable person.
    """

    kind: str
    skeleton: str
    samples: list[PoseSample]
    annotations: Path
    skipped: dict[str, list[str]] = field(default_factory=dict)
    pictures: dict[int, Path] = field(default_factory=dict)

    @property
    def scored_by_oks(self) -> bool:
        """Whether the metric is AP by OKS, which can use a detector's boxes; other metrics use the labelled boxes."""
        return self.kind in ("coco", "crowdpose")


def describe_skipped(data: PoseData) -> str | None:
    """Return one line with counts per reason and the first five names; None if nothing was skipped.

    >>> describe_skipped(PoseData("lsp", "lsp14", [], Path("joints.mat"), {"picture missing": ["im00002.jpg"]}))
    'skipped 1 (1 picture missing): im00002.jpg'
    """
    counts = [f"{len(names)} {reason}" for reason, names in data.skipped.items()]
    names = [name for names in data.skipped.values() for name in names]
    return f"skipped {len(names)} ({', '.join(counts)}): {first_five(names)}" if names else None


def first_five(names: Sequence[str]) -> str:
    """Join up to five names, followed by dots if there are more."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
