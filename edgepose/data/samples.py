"""Annotated persons, the form into which every data set is read."""

from __future__ import annotations

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
        score: of the box; 1 for a labelled one.
        head_size: MPII's reference length in pixels (0.6 x the diagonal of the head box), NaN elsewhere.
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
        kind: ``coco``, ``crowdpose``, ``mpii`` or ``lsp``: decides the metric.
        skeleton: id of the skeleton whose joints are labelled.
        samples: the persons that can be used.
        annotations: the file the labels came from (for COCO kinds, what pycocotools reads).
        skipped: by reason, the names of what could not be used, such as
            ``{"no labelled joint": ["000000001000.jpg: annotation 183020"]}``.
        pictures: by image number, every picture of the split that is there, also those without a usable person.
    """

    kind: str
    skeleton: str
    samples: list[PoseSample]
    annotations: Path
    skipped: dict[str, list[str]] = field(default_factory=dict)
    pictures: dict[int, Path] = field(default_factory=dict)

    @property
    def scored_by_oks(self) -> bool:
        """Whether its measure is AP by OKS, which takes the boxes of a detector; else persons are scored one by one."""
        return self.kind in ("coco", "crowdpose")


def describe_skipped(data: PoseData) -> str | None:
    """One line on what could not be used: the count by reason, the first five names; None where all could be.

    >>> describe_skipped(PoseData("lsp", "lsp14", [], Path("joints.mat"), {"picture missing": ["im00002.jpg"]}))
    'skipped 1 (1 picture missing): im00002.jpg'
    """
    counts = [f"{len(names)} {reason}" for reason, names in data.skipped.items()]
    names = [name for names in data.skipped.values() for name in names]
    return f"skipped {len(names)} ({', '.join(counts)}): {first_five(names)}" if names else None


def first_five(names: list[str]) -> str:
    """Up to five names, and dots where there are more."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
