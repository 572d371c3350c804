"""Keypoint results in COCO's format and their average precision, by pycocotools. COCO and CrowdPose."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import UsageError, missing_extra
from ..data.coco import PERSON, persons_of, whole_number
from .metrics import oks_nms, person_scores

#: The ten figures of COCO's keypoint evaluation, in its order.
FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
#: CrowdPose publishes AP by how crowded a picture is: ranges of its crowd index, the upper end not included.
CROWD_LEVELS = {"AP easy": (0.0, 0.1), "AP medium": (0.1, 0.8), "AP hard": (0.8, np.inf)}
#: Share of the box's area that stands for the person's where none is labelled (CrowdPose's own evaluation).
_AREA_OF_BOX = 0.53

Result = dict[str, Any]


def coco_results(
    image_ids: Sequence[int],
    poses: ArrayLike,
    box_scores: ArrayLike,
    areas: ArrayLike,
    sigmas: ArrayLike,
    *,
    suppress: Callable[..., list[int]] = oks_nms,
    limit: float = 0.9,
    joint_score: float = 0.2,
) -> list[Result]:
    """Persons as COCO keypoint results: rescored, and without doubles in a picture (HRNet's protocol).

    Args:
        image_ids: (N,) picture of each person.
        poses: (N, J, 3) x, y in image pixels, and score.
        box_scores: (N,) of the boxes.
        areas: (N,) of the crops' regions in square pixels, by which poses are compared with each other.
        sigmas: (J,) of the skeleton.
        suppress: :func:`edgepose.accuracy.metrics.oks_nms` or ``soft_oks_nms``. The defaults of this, ``limit`` and
            ``joint_score`` are HRNet's published protocol; its reference numbers vary them.
        limit: its OKS.
        joint_score: see :func:`edgepose.accuracy.metrics.person_scores`.

    Returns:
        one object a person that stays, picture after picture, the best first. There is no ``bbox``: with one,
        pycocotools would sort unmatched persons into its sizes by the box and no longer by the keypoints.
    """
    poses, areas = np.asarray(poses, np.float64), np.asarray(areas, np.float64)
    scores, pictures = person_scores(poses, box_scores, joint_score), np.asarray(image_ids)
    results = []
    for image_id in dict.fromkeys(image_ids):
        here = np.flatnonzero(pictures == image_id)
        stay = here[suppress(poses[here], scores[here], areas[here], sigmas, limit)]
        results += [result(image_id, poses[i], scores[i]) for i in stay]
    return results


def result(image_id: int, pose: NDArray[np.floating], score: float) -> Result:
    """One person in COCO's result format; ``pose`` is (J, 3): x, y, score."""
    points = [float(value) for value in pose.ravel()]
    return {"image_id": int(image_id), "category_id": PERSON, "keypoints": points, "score": float(score)}


def read_labels(path: Path, image_ids: Iterable[int], count: int, joints: Sequence[int]) -> dict[str, Any]:
    """The labels of some pictures, as pycocotools takes them.

    Args:
        path: COCO-style JSON of persons with keypoints.
        image_ids: pictures to evaluate.
        count: number of joints that the file labels.
        joints: which of them to evaluate, and in which order.

    Returns:
        COCO's structure, its ids as numbers. Persons without an ``area`` get 0.53 x their box's (CrowdPose labels
        none); damaged ones, such as those with another number of joints, and other categories are left out.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the labels of {path} ({error}): copy the file again") from error
    wanted = set(image_ids)
    images = {number: i for i in content["images"] if (number := whole_number(i.get("id"))) in wanted}
    is_person = persons_of(content)
    persons = [
        _person({**annotation, "image_id": number}, count, list(joints))
        for annotation in content["annotations"]
        if is_person(annotation) and (number := whole_number(annotation.get("image_id"))) in images
    ]
    return {
        "images": [{**image, "id": number} for number, image in images.items()],
        "annotations": [{**person, "id": i} for i, person in enumerate(filter(None, persons), start=1)],
        "categories": [{"id": PERSON, "name": "person"}],
    }


def _person(annotation: dict[str, Any], count: int, joints: list[int]) -> dict[str, Any] | None:
    """What pycocotools reads of a person, with the wanted joints alone; None where it cannot be read."""
    try:
        left, top, width, height = (float(side) for side in annotation["bbox"])
        keypoints = np.asarray(annotation.get("keypoints") or np.zeros(3 * count), np.float64).reshape(count, 3)[joints]
        labelled = int((keypoints[:, 2] > 0).sum())
        return {
            "image_id": annotation["image_id"],
            "category_id": PERSON,
            "iscrowd": int(annotation.get("iscrowd", 0)),
            "bbox": [left, top, width, height],
            "area": float(annotation.get("area", _AREA_OF_BOX * width * height)),
            # A person with none is ignored. CrowdPose's own number leaves hidden joints out, and can be 0 before ours.
            "num_keypoints": min(labelled, int(annotation.get("num_keypoints", labelled))),
            "keypoints": keypoints.ravel().tolist(),
        }
    except (KeyError, TypeError, ValueError):
        return None


def need_pycocotools() -> None:
    """Raise UsageError with the line that installs pycocotools where it is missing."""
    if find_spec("pycocotools") is None:
        raise missing_extra("pycocotools")


def coco_figures(labels: dict[str, Any], results: Sequence[Result], sigmas: ArrayLike) -> dict[str, float | None]:
    """COCO's ten figures in percent; None where no labelled person has the size.

    Args:
        labels: see :func:`read_labels`; not modified.
        results: in COCO's format; may be empty; not modified.
        sigmas: (J,) of the joints.

    Raises:
        UsageError: pycocotools is not installed.
    """
    need_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # it reports its progress there
        truth = _indexed(COCO(), labels["annotations"], labels)
        found = truth.loadRes([dict(r) for r in results]) if results else _indexed(COCO(), [], labels)
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {n: None if v < 0 else 100 * float(v) for n, v in zip(FIGURES, evaluation.stats, strict=True)}


def box_precision(
    persons: Sequence[NDArray[np.floating]], found: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]
) -> float:
    """COCO's AP of boxes of persons in percent, of any size.

    Args:
        persons: of each picture, boxes (N, 4) xyxy in pixels; at least one in all.
        found: of each picture, boxes (M, 4) likewise and scores (M,).

    Raises:
        UsageError: pycocotools is not installed.
    """
    need_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def objects(picture: int, boxes: NDArray[np.floating]) -> list[dict[str, Any]]:
        sizes = boxes[:, 2:] - boxes[:, :2]
        sides = np.hstack([boxes[:, :2], sizes]).astype(float).tolist()
        return [{"image_id": picture, "category_id": 1, "bbox": side, "area": side[2] * side[3]} for side in sides]

    labelled = [o for picture, boxes in enumerate(persons) for o in objects(picture, boxes)]
    annotations = [{**o, "id": number, "iscrowd": 0} for number, o in enumerate(labelled, 1)]
    results = [
        {**o, "score": float(score)}
        for picture, (boxes, scores) in enumerate(found)
        for o, score in zip(objects(picture, boxes), scores, strict=True)
    ]
    if not results:
        return 0.0
    labels = {"images": [{"id": picture} for picture in range(len(persons))], "categories": [{"id": 1}]}
    with redirect_stdout(io.StringIO()):
        truth = _indexed(COCO(), annotations, labels)
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])


def _indexed(coco: Any, annotations: list[dict[str, Any]], labels: dict[str, Any]) -> Any:
    # pycocotools writes into what it is given
    coco.dataset = {**labels, "annotations": [dict(annotation) for annotation in annotations]}
    coco.createIndex()
    return coco


def crowd_figures(labels: dict[str, Any], results: Sequence[Result], sigmas: ArrayLike) -> dict[str, float | None]:
    """CrowdPose's figures: AP and AR without COCO's sizes, and AP by crowd index where the pictures have one."""
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
