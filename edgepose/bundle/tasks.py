"""The two tasks of a network, and everything that differs between them: poses of crops, and persons in pictures.

Other modules call the methods of a bundle's task; they do not test which task it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.boxes import PERSON_SCORE, find_persons, person_errors
from ..core.geometry import Size
from ..core.heatmaps import STRIDE
from ..core.pictures import CENTRE, bone_colours, draw_boxes, draw_maps, draw_pair
from ..core.skeletons import Skeleton, get_skeleton
from .contract import (
    BONES,
    BOXES,
    GUIDES,
    HEATMAPS,
    KEYPOINTS,
    SCORES,
    SEGMENTATION,
    Contract,
    float_spec,
    image_spec,
)
from .limits import BOX_LIMITS, POSE_LIMITS, Limits, limits_in

if TYPE_CHECKING:
    from .manifest import Manifest

#: The outputs of a network, or of a reference, by name.
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """The differences between a pose network and a person detector.

    Attributes:
        network: name of the kind of network, such as ``pose network``.
        graph: file name of the FP32 graph in a bundle.
        image: word for an input image, ``crop`` or ``picture``.
        point: word for what is compared in pixels, such as ``keypoint``; ``points`` is its plural.
        score: word for what is compared as a fraction of a range, such as ``heat-map``.
        rows: limits for each arithmetic.
        outputs: names of the outputs; a fault in one also shows in those after it.
    """

    network: str
    graph: str
    image: str
    point: str
    points: str
    score: str
    rows: Mapping[str, Limits]
    outputs: tuple[str, ...]

    def graph_name(self, precision: str) -> str:
        """Return the file name of the graph of a precision, such as ``pose.fp16.onnx``."""
        return self.graph if precision == "fp32" else self.graph.replace(".onnx", f".{precision}.onnx")

    def limits(self, precision: str) -> Limits:
        """Return the limits of a precision, see :func:`edgepose.bundle.limits.limits_in`."""
        return limits_in(self.rows, precision)

    def options_flaw(self, options: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Return a sentence on what is wrong with the options of a manifest, or None."""
        return None

    @abstractmethod
    def contract(self, manifest: Manifest) -> Contract:
        """Return the inputs and outputs of a bundle's network."""

    @abstractmethod
    def errors(self, goldens: Outputs, outputs: Outputs) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
        """Compare outputs, which may hold NaN, with those of the reference for the same N images.

        Returns:
            the distances of each image's points in pixels, (J,) keypoints or (P,) persons of the golden picture; and
            the largest error of a score per image, (N,). NaN counts as infinite.
        """

    @abstractmethod
    def score_range(self, goldens: Outputs) -> float:
        """Return the range (maximum - minimum) of the golden scores, or 1 where they are constant."""

    def flaw(self, goldens: Outputs) -> str | None:  # noqa: ARG002  every keypoint is compared, wherever it is
        """Return why well-formed goldens cannot verify a network, or None."""
        return None

    @abstractmethod
    def draw(
        self, manifest: Manifest, image: NDArray[np.uint8], golden: Outputs, got: Outputs, distances: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], str]:
        """Draw the results of the reference and of an engine, without the batch, over an image (H, W, 3) uint8 RGB.

        To the right of it come the further maps that the goldens hold, each of the reference and of the engine.

        Returns:
            the enlarged picture; and the name of the point with the largest of the ``distances`` (in pixels) in
            parentheses, or an empty text.
        """


def pose_contract(joints: int, size: Size) -> Contract:
    """Return the inputs and outputs of a pose network with this number of joints, for crops of (height, width)."""
    height, width = size
    heatmaps = float_spec(HEATMAPS, joints, height // STRIDE, width // STRIDE)
    return Contract(image_spec(height, width), (float_spec(KEYPOINTS, joints, 3),), (heatmaps,))


def map_pictures(image: NDArray[np.uint8], outputs: Outputs, skeleton: Skeleton) -> list[NDArray[np.uint8]]:
    """Draw what a pose network was exported with besides the joints, over an image (H, W, 3) uint8 RGB.

    ``outputs`` are those of the image, without the batch. Every bone map has its bone's colour (DITN's Figure 1b); of
    the segmentation maps the mean is drawn. The pictures are enlarged; there is none for an output that is absent.
    """
    pictures = []
    if BONES in outputs:
        pictures.append(draw_maps(image, outputs[BONES], bone_colours(skeleton)))
    if SEGMENTATION in outputs:
        pictures.append(draw_maps(image, outputs[SEGMENTATION].mean(axis=0, keepdims=True), [CENTRE]))
    return pictures


@dataclass(frozen=True, eq=False)
class _Pose(Task):
    def contract(self, manifest: Manifest) -> Contract:
        skeleton, (height, width) = get_skeleton(manifest.skeleton), manifest.input_size
        known = pose_contract(len(skeleton.joints), manifest.input_size)
        maps = [float_spec(BONES, len(skeleton.bones), height // STRIDE, width // STRIDE)]
        maps += [float_spec(SEGMENTATION, GUIDES, height // STRIDE, width // STRIDE)]
        return replace(known, optional=(*known.optional, *maps))

    def errors(self, goldens: Outputs, outputs: Outputs) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
        difference = outputs[KEYPOINTS].astype(np.float64) - goldens[KEYPOINTS]
        distances = np.nan_to_num(np.linalg.norm(difference[..., :2], axis=-1), nan=np.inf)
        scores = np.abs(difference[..., 2]).max(axis=1)
        for name in filter(goldens.__contains__, (HEATMAPS, BONES, SEGMENTATION)):
            error = np.abs(outputs[name].astype(np.float64) - goldens[name]).max(axis=(1, 2, 3))
            # Every kind of map has a range of its own; the figure is in the heat-maps' unit.
            scale = 1.0 if name == HEATMAPS else self.score_range(goldens) / (float(np.ptp(goldens[name])) or 1.0)
            scores = np.maximum(scores, scale * error)
        return list(distances), np.nan_to_num(scores, nan=np.inf)

    def score_range(self, goldens: Outputs) -> float:
        scores = goldens[HEATMAPS] if HEATMAPS in goldens else goldens[KEYPOINTS][..., 2]
        return float(np.ptp(scores)) or 1.0

    def draw(
        self, manifest: Manifest, image: NDArray[np.uint8], golden: Outputs, got: Outputs, distances: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], str]:
        skeleton = get_skeleton(manifest.skeleton)
        joint = skeleton.joints[int(distances.argmax())].replace("_", " ")
        pair = draw_pair(image, golden[KEYPOINTS], got[KEYPOINTS], skeleton)
        maps = [map_pictures(image, {name: outputs[name] for name in golden}, skeleton) for outputs in (golden, got)]
        return np.concatenate([pair, *chain(*zip(*maps, strict=True))], axis=1), f" ({joint})"


@dataclass(frozen=True, eq=False)
class _Persons(Task):
    def options_flaw(self, options: Mapping[str, Any]) -> str | None:
        count = options.get("boxes") if isinstance(options, dict) else None
        return None if type(count) is int and count > 0 else "options of a detector must name a number of boxes"

    def contract(self, manifest: Manifest) -> Contract:
        count = int(manifest.options["boxes"])
        return Contract(image_spec(*manifest.input_size), (float_spec(BOXES, count, 4), float_spec(SCORES, count)))

    def errors(self, goldens: Outputs, outputs: Outputs) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
        wanted, got = (zip(found[BOXES], found[SCORES], strict=True) for found in (goldens, outputs))
        found = [person_errors(*pair, PERSON_SCORE) for pair in zip(wanted, got, strict=True)]
        finite = np.isfinite(outputs[BOXES]).all(axis=(1, 2)) & np.isfinite(outputs[SCORES]).all(axis=1)
        return [distances for distances, _ in found], np.where(finite, [score for _, score in found], np.inf)

    def score_range(self, goldens: Outputs) -> float:
        return float(np.ptp(goldens[SCORES])) or 1.0

    def flaw(self, goldens: Outputs) -> str | None:
        if goldens[SCORES].max() >= PERSON_SCORE:
            return None
        return f"no person scores {PERSON_SCORE:g} or more, so nothing can be verified"

    def draw(
        self,
        manifest: Manifest,  # noqa: ARG002
        image: NDArray[np.uint8],
        golden: Outputs,
        got: Outputs,
        distances: NDArray[Any],  # noqa: ARG002
    ) -> tuple[NDArray[np.uint8], str]:
        both = (find_persons(found[BOXES], found[SCORES], PERSON_SCORE)[0] for found in (golden, got))
        return draw_boxes(image, *both), ""


POSE = _Pose(
    network="pose network",
    graph="pose.onnx",
    image="crop",
    point="keypoint",
    points="keypoints",
    score="heat-map",
    rows=POSE_LIMITS,
    outputs=(SEGMENTATION, BONES, HEATMAPS, KEYPOINTS),
)
PERSONS = _Persons(
    network="person detector",
    graph="detector.onnx",
    image="picture",
    point="box",
    points="boxes",
    score="score",
    rows=BOX_LIMITS,
    outputs=(SCORES, BOXES),
)

#: Tasks by the value of ``decode`` in a manifest: keypoints by argmax with the quarter offset, or boxes of persons.
TASKS: Mapping[str, Task] = {"quarter": POSE, "boxes": PERSONS}
