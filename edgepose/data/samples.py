"""The form into which all data sets are read: persons with joints and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from ..core.geometry import Size

#: A person's area as a share of the box's, for persons without a labelled area (CrowdPose's own evaluation).
AREA_OF_BOX = 0.53


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
        size: (height, width) of the image that was labelled; None if the labels do not say. See :func:`require_size`.
    """

    image: Path
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    box: NDArray[np.float64]
    image_id: int = 0
    score: float = 1.0
    head_size: float = float("nan")
    size: Size | None = None


@dataclass(frozen=True)
class Label:
    """What the evaluation by OKS compares poses with: a person, or a region where poses are neither right nor wrong.

    Attributes:
        image_id: number of the image.
        bbox: (x, y, width, height) in pixels as labelled.
        area: in square pixels; :data:`AREA_OF_BOX` x the box's if it is not labelled.
        joints: (J, 2) x, y in pixels.
        visible: (J,) bool, True where labelled; nowhere for a region.
        counted: whether the person must be found: one of the samples, and not of those that the data set ignores.
        crowd: whether the region may match any number of poses.
    """

    image_id: int
    bbox: tuple[float, float, float, float]
    area: float
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    counted: bool = True
    crowd: bool = False


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
        sizes: image number to (height, width), for the pictures of which the labels say it.
        labels: for AP by OKS: the samples, and the regions to ignore (crowds, and persons that cannot be used).
        crowding: image number to CrowdPose's crowd index.
    """

    kind: str
    skeleton: str
    samples: list[PoseSample]
    annotations: Path
    skipped: dict[str, list[str]] = field(default_factory=dict)
    pictures: dict[int, Path] = field(default_factory=dict)
    sizes: dict[int, Size] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)
    crowding: dict[int, float] = field(default_factory=dict)

    @property
    def scored_by_oks(self) -> bool:
        """Whether the metric is AP by OKS, which can use a detector's boxes; other metrics use the labelled boxes."""
        return self.kind in ("coco", "crowdpose")


def require_size(sample: PoseSample, image: NDArray[np.uint8]) -> None:
    """Raise UsageError unless the picture of a sample, (H, W, 3), has the size for which the labels were made.

    Labels that ignore the EXIF orientation lie elsewhere. They are not turned: some tools write the size of the stored
    pixels beside joints that lie right on the turned picture.
    """
    height, width = image.shape[:2]
    if sample.size in (None, (height, width)):
        return
    if sample.size == (width, height):
        advice = "were they made before it was turned? Save the picture turned, or correct labels and size"
    else:
        advice = "give the pictures that were labelled, or correct the size in the labels"
    stated = f"{sample.size[1]}x{sample.size[0]}" if sample.size else "none"
    raise UsageError(
        f"picture {sample.image} is {width}x{height} pixels (width x height, EXIF orientation applied), the labels are "
        f"for {stated}: {advice}"
    )


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
