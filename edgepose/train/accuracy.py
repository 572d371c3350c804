"""Accuracy of a predictor on labelled persons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..geometry import CROP_PADDING, crop_boxes, transform_points
from ..heatmaps import decode, merge_flipped
from ..images import read_image
from ..metrics import pck, torso_size
from ..skeletons import Skeleton
from .data.samples import PoseSample

#: uint8 crops (N, H, W, 3) to heat-maps (N, J, h, w).
Predictor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def predict(
    predictor: Predictor,
    samples: Sequence[PoseSample],
    skeleton: Skeleton,
    input_size: tuple[int, int],
    *,
    flip: bool = False,
    padding: float = CROP_PADDING,
    batch: int = 32,
) -> NDArray[np.float64]:
    """Keypoints (N, J, 3) of every sample: x, y in its image's pixels, and score.

    Args:
        predictor: the network behind any backend.
        samples: persons with their boxes.
        skeleton: of the predictor.
        input_size: (height, width) of the crops.
        flip: average with the mirrored crops (the papers' test protocol).
        padding: factor from the box to the crop.
        batch: crops per call.
    """
    results = []
    for start in range(0, len(samples), batch):
        pairs = [crop_boxes(read_image(s.image), s.box, input_size, padding) for s in samples[start : start + batch]]
        crops = np.concatenate([crops for crops, _ in pairs])
        back = np.concatenate([inverse for _, inverse in pairs])
        maps = predictor(crops)
        if flip:
            maps = merge_flipped(maps, predictor(np.ascontiguousarray(crops[:, :, ::-1])), skeleton.flip_order)
        keypoints = decode(maps)
        points = transform_points(keypoints[..., :2], back)
        results.append(np.concatenate([points, keypoints[..., 2:]], axis=2))
    return np.concatenate(results)


def evaluate_pck(
    predictor: Predictor,
    samples: Sequence[PoseSample],
    skeleton: Skeleton,
    input_size: tuple[int, int],
    *,
    flip: bool = False,
    padding: float = CROP_PADDING,
) -> NDArray[np.float64]:
    """PCK@0.2 of torso size per joint, in percent (LSP's metric)."""
    predicted = predict(predictor, samples, skeleton, input_size, flip=flip, padding=padding)
    labelled = np.stack([s.joints for s in samples])
    visible = np.stack([s.visible for s in samples])
    return pck(predicted[..., :2], labelled, visible, torso_size(labelled, skeleton))
