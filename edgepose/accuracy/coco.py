"""Write keypoint results in COCO's format, and compute their AP on COCO and CrowdPose with pycocotools."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import missing_extra
from ..data.categories import PERSON
from ..data.samples import Label, PoseData
from .metrics import oks_nms, person_scores, pose_oks

#: The ten figures of COCO's keypoint evaluation, in pycocotools' order.
FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
#: CrowdPose's AP for pictures of different crowdedness: ranges [low, high) of the crowd index.
CROWD_LEVELS = {"AP easy": (0.0, 0.1), "AP medium": (0.1, 0.8), "AP hard": (0.8, np.inf)}

Result = dict[str, Any]


def coco_results(
    image_ids: Sequence[int], poses: ArrayLike, box_scores: ArrayLike, areas: ArrayLike, sigmas: ArrayLike
) -> list[Result]:
    """Convert poses to COCO keypoint results: rescore them and drop duplicates in a picture (HRNet's protocol).

    Args:
        image_ids: (N,) picture of each person.
        poses: (N, J, 3) x, y in image pixels, and score.
        box_scores: (N,) scores of the boxes.
        areas: (N,) areas of the crops' regions in square pixels, for the OKS between poses.
        sigmas: (J,) of the skeleton.

    Returns:
        one object per person that is kept, grouped by picture, best first. They have no ``bbox``: pycocotools would
        take an unmatched person's size from it instead of from the keypoints.
    """
    poses, areas = np.asarray(poses, np.float64), np.asarray(areas, np.float64)
    scores, pictures = person_scores(poses, box_scores), np.asarray(image_ids)
    results = []
    for image_id in dict.fromkeys(image_ids):
        here = np.flatnonzero(pictures == image_id)
        stay = here[oks_nms(pose_oks(poses[here, :, :2], areas[here], sigmas), scores[here])]
        results += [result(image_id, poses[i], scores[i]) for i in stay]
    return results


def result(image_id: int, pose: NDArray[np.floating], score: float) -> Result:
    """Return one person in COCO's result format; ``pose`` is (J, 3) x, y in image pixels, and score."""
    points = [float(value) for value in pose.ravel()]
    return {"image_id": int(image_id), "category_id": PERSON, "keypoints": points, "score": float(score)}


def labels_of(data: PoseData, joints: Sequence[int]) -> dict[str, Any]:
    """Return the labels of a split in the form that pycocotools takes: the samples, and the regions to ignore.

    ``joints`` are the indices of those to evaluate, in the order to return.
    """
    crowding = {number: {"crowdIndex": crowd} for number, crowd in data.crowding.items()}
    return {
        "images": [{"id": number, **crowding.get(number, {})} for number in data.pictures],
        "annotations": [_annotation(i, label, list(joints)) for i, label in enumerate(data.labels, start=1)],
        "categories": [{"id": PERSON, "name": "person"}],
    }


def _annotation(number: int, label: Label, joints: list[int]) -> dict[str, Any]:
    visible = label.visible[joints]
    return {
        "id": number,
        "image_id": label.image_id,
        "category_id": PERSON,
        "iscrowd": int(label.crowd),
        "bbox": list(label.bbox),
        "area": label.area,
        "num_keypoints": int(visible.sum()) if label.counted else 0,  # persons with 0 are ignored
        "keypoints": np.column_stack([label.joints[joints], visible]).ravel().tolist(),
    }


def need_pycocotools() -> None:
    """Raise UsageError with the command that installs pycocotools if it is missing."""
    if find_spec("pycocotools") is None:
        raise missing_extra("pycocotools")


def coco_figures(labels: dict[str, Any], results: Sequence[Result], sigmas: ArrayLike) -> dict[str, float | None]:
    """Return COCO's ten figures in percent; None for a size that no labelled person has.

    ``labels`` are from :func:`labels_of`, ``results`` in COCO's format, perhaps none, and ``sigmas`` (J,).

    Raises:
        UsageError: pycocotools is not installed.
    """
    stats = _evaluate("keypoints", labels, results, np.asarray(sigmas, np.float64))
    return {name: None if value < 0 else 100 * value for name, value in zip(FIGURES, stats, strict=True)}


def box_ap(
    persons: Sequence[NDArray[np.floating]], found: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]
) -> float:
    """Return COCO's AP of the boxes of persons of all sizes, in percent.

    Args:
        persons: the labelled boxes (N, 4) xyxy in pixels of each picture; at least one in all.
        found: the found boxes (M, 4) and scores (M,) of each picture.

    Raises:
        UsageError: pycocotools is not installed.
    """

    def objects(picture: int, boxes: NDArray[np.floating]) -> list[dict[str, Any]]:
        sizes = boxes[:, 2:] - boxes[:, :2]
        sides = np.hstack([boxes[:, :2], sizes]).astype(float).tolist()
        return [{"image_id": picture, "category_id": PERSON, "bbox": side, "area": side[2] * side[3]} for side in sides]

    labelled = [o for picture, boxes in enumerate(persons) for o in objects(picture, boxes)]
    annotations = [{**o, "id": number, "iscrowd": 0} for number, o in enumerate(labelled, 1)]
    results = [
        {**o, "score": float(score)}
        for picture, (boxes, scores) in enumerate(found)
        for o, score in zip(objects(picture, boxes), scores, strict=True)
    ]
    images = [{"id": picture} for picture in range(len(persons))]
    labels = {"images": images, "annotations": annotations, "categories": [{"id": PERSON}]}
    return 100 * _evaluate("bbox", labels, results)[0]


def _evaluate(
    kind: str, labels: dict[str, Any], results: Sequence[Result], sigmas: NDArray[np.float64] | None = None
) -> list[float]:
    """Return pycocotools' figures of ``keypoints`` or ``bbox`` as shares; -1 for a size that nobody has."""
    need_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, nothing = COCO(), COCO()
    # Copies, because pycocotools writes into its input.
    truth.dataset = {**labels, "annotations": [dict(annotation) for annotation in labels["annotations"]]}
    nothing.dataset = {**labels, "annotations": []}
    with redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        nothing.createIndex()
        evaluation = COCOeval(truth, truth.loadRes([dict(r) for r in results]) if results else nothing, kind)
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def crowd_figures(labels: dict[str, Any], results: Sequence[Result], sigmas: ArrayLike) -> dict[str, float | None]:
    """Return CrowdPose's figures in percent: AP and AR of all sizes, and AP by crowd index if the labels have it."""
    whole = coco_figures(labels, results, sigmas)
    figures = {name: value for name, value in whole.items() if name[-1] not in "ML"}
    for name, (low, high) in CROWD_LEVELS.items():
        images = [image for image in labels["images"] if low <= image.get("crowdIndex", -1) < high]
        ids = {image["id"] for image in images}
        if ids:
            part = {**labels, "images": images, "annotations": _of(labels["annotations"], ids)}
            figures[name] = coco_figures(part, _of(results, ids), sigmas)["AP"]
    return figures


def _of(objects: Iterable[dict[str, Any]], image_ids: set[int]) -> list[dict[str, Any]]:
    return [o for o in objects if o["image_id"] in image_ids]
