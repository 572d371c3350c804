"""Score a predictor on a labelled data set, by the metric that results on this data set are published with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckError, UsageError
from ..core.geometry import CROP_PADDING, Size, crop_boxes, crop_regions, transform_points
from ..core.heatmaps import decode, decode_dark, merge_flipped
from ..core.images import read_image
from ..core.progress import bar
from ..core.skeletons import Skeleton, get_skeleton
from ..data.samples import PoseData, PoseSample, require_size
from .coco import Result, coco_figures, coco_results, crowd_figures, labels_of, need_pycocotools, result
from .metrics import (
    correct_keypoints,
    keypoint_similarity,
    mean_pck,
    mean_pckh,
    mpii_rows,
    oks,
    percent_by_joint,
    person_scores,
    torso_size,
)

#: uint8 crops (N, H, W, 3) to heat-maps (N, J, h, w).
Predictor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

#: Least similarity of a right joint on COCO and CrowdPose; below it, Ronchi and Perona call the joint a miss
#: (Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation, ICCV 2017).
SIMILAR = 0.5
_OKS_JOINTS = f"joints right (similarity of {SIMILAR:g} or more)"

#: Name of the method to a function from heat-maps (N, J, h, w) to keypoints (N, J, 3).
DECODERS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {"quarter": decode, "dark": decode_dark}


@dataclass(frozen=True)
class Person:
    """A labelled person and its prediction.

    Attributes:
        sample: the labels, with only the joints that were scored.
        keypoints: (J, 3) predicted x, y in image pixels and score; NaN if nothing was found in the picture.
        score: in percent: OKS, or the share of the person's labelled joints that are right.
    """

    sample: PoseSample
    keypoints: NDArray[np.float64]
    score: float


@dataclass(frozen=True)
class Scores:
    """Accuracy on one split, in percent.

    Attributes:
        name: name of the headline figure: ``AP``, ``PCKh@0.5`` or ``PCK@0.2 of the torso``.
        value: the headline figure.
        skeleton: the joints that were scored: all of the data set's, or only those that the predictor has, too.
        figures: name to value of the data set's other figures; None if no person has the figure's size.
        per_joint_name: description of the figures in ``per_joint``.
        per_joint: joint name to its figure; None if no person has this joint labelled.
        persons: every labelled person, in the order of the data set.
        results: the predictions in COCO's result format (for COCO and CrowdPose exactly those that were scored).
    """

    name: str
    value: float
    skeleton: Skeleton
    figures: dict[str, float | None]
    per_joint_name: str
    per_joint: dict[str, float | None]
    persons: list[Person]
    results: list[Result]

    @property
    def headline(self) -> str:
        """Name and value of the headline figure, such as ``AP 71.2 %``."""
        return f"{self.name} {self.value:.1f} %"

    def worst(self, count: int) -> list[int]:
        """Return the indices of up to ``count`` persons with the lowest scores, the lowest first."""
        return sorted(range(len(self.persons)), key=lambda i: self.persons[i].score)[:count]


def predict(
    predictor: Predictor,
    samples: Sequence[PoseSample],
    skeleton: Skeleton,
    input_size: Size,
    *,
    flip: bool = False,
    decode: str = "quarter",
    padding: float = CROP_PADDING,
    batch: int = 32,
) -> NDArray[np.float64]:
    """Predict keypoints (N, J, 3) of every sample: x, y in pixels of the sample's image, and score.

    ``batch`` is the number of crops per call; the other arguments and the errors are those of :func:`score`.
    """
    if decode not in DECODERS:
        raise UsageError(f"decode {decode!r}: expected one of {', '.join(DECODERS)}")
    results = [np.zeros((0, len(skeleton.joints), 3))]
    with bar("evaluating") as progress:
        for start in range(0, len(samples), batch):
            crops, back = crop_samples(samples[start : start + batch], input_size, padding)
            maps = predictor(crops)
            if flip:
                maps = merge_flipped(maps, predictor(np.ascontiguousarray(crops[:, :, ::-1])), skeleton.flip_order)
            if not np.isfinite(maps).all():
                raise CheckError("the network gave NaN or infinity: check its weights or its engine")
            keypoints = DECODERS[decode](maps)
            points = transform_points(keypoints[..., :2], back)
            results.append(np.concatenate([points, keypoints[..., 2:]], axis=2))
            progress(min(start + batch, len(samples)), len(samples))
    return np.concatenate(results)


def crop_samples(
    samples: Sequence[PoseSample], size: Size, padding: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return crops (N, h, w, 3) and the matrices (N, 2, 3) back; reads a picture once for consecutive samples."""
    pairs = [
        crop_boxes(_read(group[0]), np.stack([s.box for s in group]), size, padding)
        for group in (list(same) for _, same in groupby(samples, key=lambda s: (s.image, s.size)))
    ]
    crops, back = zip(*pairs, strict=True)
    return np.concatenate(crops), np.concatenate(back)


def _read(sample: PoseSample) -> NDArray[np.uint8]:
    try:
        picture = read_image(sample.image)
        require_size(sample, picture)
        return picture
    except UsageError as error:  # not skipped as in training: that would change the result
        raise UsageError(f"{error} (to evaluate without this picture and its persons, remove it)") from error


def score(
    predictor: Predictor,
    data: PoseData,
    skeleton: Skeleton,
    input_size: Size,
    *,
    detected: PoseData | None = None,
    flip: bool = False,
    decode: str = "quarter",
    padding: float = CROP_PADDING,
    shared_joints: bool = False,
) -> Scores:
    """Score a predictor: AP on COCO and CrowdPose, PCKh@0.5 on MPII, PCK@0.2 of the torso on LSP.

    Args:
        predictor: the network, on any backend.
        data: labelled persons.
        skeleton: the predictor's skeleton; must be the data set's, unless ``shared_joints``.
        input_size: (height, width) of the crops.
        detected: from :func:`edgepose.data.detected_samples`, to crop at a detector's boxes instead of labelled ones.
        flip: average with the mirrored crops (the papers' test protocol).
        decode: ``quarter`` (the papers' quarter offset) or ``dark`` (:func:`edgepose.core.heatmaps.decode_dark`).
        padding: factor from the box to the crop.
        shared_joints: score only the joints that are in both skeletons, and mention it in the headline.

    Raises:
        UsageError: ``decode`` is unknown, a picture cannot be read, or :func:`scored_skeleton` refuses the data.
        CheckError: the network returns NaN or infinity.
    """
    scored = scored_skeleton(data, skeleton, shared_joints=shared_joints)
    samples = (detected or data).samples
    poses = predict(predictor, samples, skeleton, input_size, flip=flip, decode=decode, padding=padding)
    poses = poses[:, _positions(scored, skeleton)]
    if not data.scored_by_oks:
        return _score_pck(data, poses, scored)
    return _score_oks(data, rescored(samples, poses, scored, input_size, padding), scored)


def rescored(
    samples: Sequence[PoseSample],
    poses: NDArray[np.float64],
    skeleton: Skeleton,
    input_size: Size,
    padding: float = CROP_PADDING,
) -> list[Result]:
    """Return poses (N, J, 3) of samples as COCO results, by :func:`edgepose.accuracy.coco.coco_results`."""
    regions = crop_regions(np.array([s.box for s in samples]), input_size, padding)
    ids, boxes = [s.image_id for s in samples], [s.score for s in samples]
    return coco_results(ids, poses, boxes, regions[:, 2] * regions[:, 3], skeleton.sigmas)


def scored_skeleton(data: PoseData, skeleton: Skeleton, *, shared_joints: bool = False) -> Skeleton:
    """Return the joints that :func:`score` will score, after a quick check that it can score the data at all.

    Raises:
        UsageError: the data label other joints or lack PCK's reference lengths, or pycocotools is not installed.
    """
    scored = get_skeleton(data.skeleton)
    if skeleton.name != scored.name:
        shared = shared_skeleton(skeleton, scored)
        if not shared_joints:
            raise UsageError(
                f"the network predicts the {len(skeleton.joints)} joints of {skeleton.name}, the data label the "
                f"{len(scored.joints)} of {scored.name}: evaluate on data of the same skeleton, or only the "
                f"{len(shared.joints)} joints of both with shared_joints (--shared-joints)"
            )
        scored = shared
    if data.scored_by_oks:
        need_pycocotools()
    elif np.isnan(_reference_lengths(data)).all():
        length = "a head size (annot/gt_valid.mat)" if data.kind == "mpii" else "a torso (right hip and left shoulder)"
        raise UsageError(f"{data.annotations} has no person with {length}, the reference length of PCK")
    return scored


def _reference_lengths(data: PoseData) -> NDArray[np.float64]:
    """Return PCK's reference lengths (N,) in pixels: MPII's head size, else the torso; NaN for a person without it."""
    if data.kind == "mpii":
        return np.array([s.head_size for s in data.samples])
    skeleton = get_skeleton(data.skeleton)
    labelled, visible = np.stack([s.joints for s in data.samples]), np.stack([s.visible for s in data.samples])
    ends = [skeleton.joints.index(name) for name in ("right_hip", "left_shoulder")]
    return np.where(visible[:, ends].all(axis=1), torso_size(labelled, skeleton), np.nan)


def shared_skeleton(predicted: Skeleton, labelled: Skeleton) -> Skeleton:
    """Return the skeleton of the joints with the same name in both; order, bones and sigmas are the labelled one's.

    Joints without a bone to another shared joint are left out, such as MPII's and LSP's head top: their necks differ.
    """
    shared = {i for i, name in enumerate(labelled.joints) if name in predicted.joints}
    bones = [bone for bone in labelled.bones if shared.issuperset(bone)]
    kept = sorted({joint for bone in bones for joint in bone})

    def renumbered(pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        return tuple((kept.index(a), kept.index(b)) for a, b in pairs if a in kept and b in kept)

    return Skeleton(
        name=f"{len(kept)} shared joints",
        joints=tuple(labelled.joints[i] for i in kept),
        bones=renumbered(bones),
        flip_pairs=renumbered(labelled.flip_pairs),
        sigmas=tuple(labelled.sigmas[i] for i in kept if labelled.sigmas),
    )


def _positions(scored: Skeleton, whole: Skeleton) -> list[int]:
    """Return the indices in ``whole`` of the joints of ``scored``."""
    return [whole.joints.index(name) for name in scored.joints]


def _titled(name: str, data: PoseData, scored: Skeleton) -> str:
    """Return a figure's name, with a remark if not all joints of the data set were scored."""
    return name if scored.name == data.skeleton else f"{name} ({scored.name})"


def _score_oks(data: PoseData, results: list[Result], skeleton: Skeleton) -> Scores:
    """Compute AP; for the figures per joint, pair each labelled person with the pose of highest OKS in its picture."""
    labels = labels_of(data, _positions(skeleton, get_skeleton(data.skeleton)))
    measure = coco_figures if data.kind == "coco" else crowd_figures
    figures = measure(labels, results, skeleton.sigmas)
    value = figures.pop("AP")
    if value is None:
        raise UsageError(f"{data.annotations} has no person with a labelled joint: AP needs at least one")
    found: dict[int, list[NDArray[np.float64]]] = {}
    for entry in results:
        found.setdefault(entry["image_id"], []).append(np.reshape(entry["keypoints"], (-1, 3)))
    persons, right = [], []
    for label in labels["annotations"]:
        if label["num_keypoints"] and not label["iscrowd"]:
            person = _with_best_pose(label, data.pictures, found.get(label["image_id"], []), skeleton)
            persons.append(person)
            points, joints = person.keypoints[:, :2], person.sample.joints
            right.append(keypoint_similarity(points, joints, label["area"], skeleton.sigmas) >= SIMILAR)
    percent = _by_joint(percent_by_joint(right, [person.sample.visible for person in persons]), skeleton)
    return Scores(_titled("AP", data, skeleton), value, skeleton, figures, _OKS_JOINTS, percent, persons, results)


def _with_best_pose(
    label: dict[str, Any], pictures: dict[int, Path], found: list[NDArray[np.float64]], skeleton: Skeleton
) -> Person:
    """Pair a labelled person with the pose (J, 3) of highest OKS in its picture."""
    keypoints = np.reshape(label["keypoints"], (-1, 3))
    points, visible, image_id = keypoints[:, :2], keypoints[:, 2] > 0, label["image_id"]
    x, y, width, height = label["bbox"]
    sample = PoseSample(pictures[image_id], points, visible, np.array([x, y, x + width, y + height]), image_id)
    if not found:
        return Person(sample, np.full(keypoints.shape, np.nan), 0.0)
    poses = np.stack(found)
    each = oks(poses[..., :2], points[None], visible[None], [label["area"]], skeleton.sigmas)[:, 0]
    return Person(sample, poses[each.argmax()], 100 * float(each.max()))


def _score_pck(data: PoseData, poses: NDArray[np.float64], skeleton: Skeleton) -> Scores:
    """Compute PCKh@0.5 on MPII, else PCK@0.2 of the torso; persons without the reference length are not counted."""
    chosen, mpii = _positions(skeleton, get_skeleton(data.skeleton)), data.kind == "mpii"
    samples = [replace(s, joints=s.joints[chosen], visible=s.visible[chosen]) for s in data.samples]
    labelled, visible = np.stack([s.joints for s in samples]), np.stack([s.visible for s in samples])
    reference = _reference_lengths(data)
    counted: NDArray[np.bool_] = visible & np.isfinite(reference)[:, None]

    def right(threshold: float) -> NDArray[np.bool_]:
        return correct_keypoints(poses[..., :2], labelled, reference, threshold)

    hits = right(0.5 if mpii else 0.2)
    percent = percent_by_joint(hits, counted)
    labels = counted.sum(axis=1)
    shares = 100 * (hits & counted).sum(axis=1) / np.maximum(labels, 1)
    persons = [Person(samples[i], poses[i], float(shares[i])) for i in np.flatnonzero(labels)]
    scores = person_scores(poses, [s.score for s in samples])
    results = [result(s.image_id, p, score) for s, p, score in zip(samples, poses, scores, strict=True)]
    name, value, figures = "PCK@0.2 of the torso", mean_pck(percent), {}
    if mpii:
        name, value = "PCKh@0.5", mean_pckh(percent, counted, skeleton)
        figures = {row: _or_none(share) for row, share in mpii_rows(percent, skeleton).items()}
        # A true 0.1: HRNet's evaluation computes its column of this name at 0.11.
        figures["PCKh@0.1"] = mean_pckh(percent_by_joint(right(0.1), counted), counted, skeleton)
    if value is None:
        raise UsageError(f"{data.annotations} has no labelled joint that counts: {name} needs at least one")
    joints = _by_joint(percent, skeleton)
    return Scores(_titled(name, data, skeleton), value, skeleton, figures, "joints right", joints, persons, results)


def _by_joint(percent: NDArray[np.float64], skeleton: Skeleton) -> dict[str, float | None]:
    return dict(zip(skeleton.joints, map(_or_none, percent.tolist()), strict=True))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
