"""Encode keypoints as heat-maps, decode heat-maps to keypoints, merge flipped heat-maps; all in NumPy.

The exported graphs and the PyTorch code are tested against these functions. Heat-maps are float32 (..., h, w) at a
quarter of the crop's resolution: crop coordinate = 4 x heat-map coordinate (HRNet's convention).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Crop pixels per heat-map pixel.
STRIDE = 4


def encode_joints(
    joints: ArrayLike, visible: ArrayLike, shape: tuple[int, int], sigma: float = 2.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return Gaussian joint targets by HRNet's rule.

    The mean is the joint rounded to a whole heat-map pixel, ``int(x / 4 + 0.5)`` (towards zero). The peak is exactly 1,
    and values more than three sigma away on an axis are 0. If all of this window is outside the map, the weight is 0.

    Args:
        joints: (J, 2) x, y in crop pixels.
        visible: (J,) truth of "this joint is labelled".
        shape: (h, w) of the heat-map.
        sigma: in heat-map pixels.

    Returns:
        targets (J, h, w) float32 and weights (J,) float32, 0 or 1.
    """
    joints = np.asarray(joints, dtype=np.float64)
    height, width = shape
    mean = np.trunc(joints / STRIDE + 0.5)
    radius = 3 * sigma
    weights = (np.asarray(visible) > 0).astype(np.float32)
    weights[(mean - radius >= (width, height)).any(1) | (mean + radius + 1 < 0).any(1)] = 0
    dx = np.arange(width)[None, :] - mean[:, :1]
    dy = np.arange(height)[None, :] - mean[:, 1:]
    # The Gaussian is separable; a column or row outside the window is cut to zero.
    gx = np.where(np.abs(dx) <= radius, np.exp(-(dx**2) / (2 * sigma**2)), 0.0)
    gy = np.where(np.abs(dy) <= radius, np.exp(-(dy**2) / (2 * sigma**2)), 0.0)
    targets = gy[:, :, None] * gx[:, None, :] * weights[:, None, None]
    return targets.astype(np.float32), weights


def encode_bones(
    joints: ArrayLike, visible: ArrayLike, bones: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Return DITN's bone targets: (3 - d) / 3 along each bone, with d the distance of a pixel from the bone's line.

    Source: ``generate_target`` in revison/lib/dataset/JointsDataset.py of github.com/onerow2star/cplusplus_primer, the
    code of DITN's first author. The ends are rounded as those of :func:`encode_joints`. Along the bone, points are
    placed about a pixel apart; a margin at either end, of one pixel but 5 to 15 % of the length, is left out. The 3x3
    pixels around every point have the value above; all others are 0. The distance is divided by the length plus 0.01,
    so a bone of no length is a square of ones.

    Args:
        joints, visible, shape: see :func:`encode_joints`.
        bones: pairs of joint indices.

    Returns:
        (B, h, w) float32; a bone with an unlabelled end is all zero.
    """
    ends = np.trunc(np.asarray(joints, dtype=np.float64) / STRIDE + 0.5)
    seen, (height, width) = np.asarray(visible) > 0, shape
    targets = np.zeros((len(bones), height, width), dtype=np.float32)
    for target, (a, b) in zip(targets, bones, strict=True):
        offset = ends[b] - ends[a]
        length = np.hypot(*offset)
        if not (seen[a] and seen[b] and length <= _LONGEST_BONE):
            continue
        margin = np.clip(1 / max(length, 1e-9), 0.05, 0.15)
        share = np.linspace(margin, 1 - margin, max(2, int(np.ceil(length))))
        near = np.round(ends[a] + share[:, None, None] * offset + _NEIGHBOURS).astype(int).reshape(-1, 2)
        x, y = near[((near >= 0) & (near < (width, height))).all(axis=1)].T
        distance = np.abs(offset[1] * (x - ends[a, 0]) - offset[0] * (y - ends[a, 1])) / (length + 0.01)
        target[y, x] = (3 - distance) / 3
    return targets


#: Offsets (9, 2) of a pixel's 3x3 neighbourhood.
_NEIGHBOURS = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(9, 2)
#: Heat-map pixels; longer bones, with a label far outside the picture, have no target, because each pixel costs memory.
_LONGEST_BONE = 10_000


def encode_bones_gaussian(
    joints: ArrayLike, visible: ArrayLike, bones: Sequence[tuple[int, int]], shape: tuple[int, int], sigma: float = 2.0
) -> NDArray[np.float32]:
    """Return smooth bone targets: exp(-d^2 / (2 sigma^2)), with d the distance of a pixel from the bone's segment.

    Args:
        joints, visible, shape, sigma: see :func:`encode_joints`.
        bones: pairs of joint indices.

    Returns:
        (B, h, w) float32; a bone with an unlabelled end is all zero.
    """
    points = np.asarray(joints, dtype=np.float32) / STRIDE
    start, end = points[[a for a, _ in bones]], points[[b for _, b in bones]]
    grid_x = np.arange(shape[1], dtype=np.float32)[None, None, :]
    grid_y = np.arange(shape[0], dtype=np.float32)[None, :, None]
    px, py = (grid_x - start[:, 0, None, None]), (grid_y - start[:, 1, None, None])
    dx, dy = np.moveaxis(end - start, 1, 0)[..., None, None]
    along = np.clip((px * dx + py * dy) / np.maximum(dx**2 + dy**2, 1e-6), 0.0, 1.0)
    distance2 = (px - along * dx) ** 2 + (py - along * dy) ** 2
    seen = np.asarray(visible) > 0
    both = np.array([seen[a] and seen[b] for a, b in bones], dtype=np.float32)
    return np.exp(-distance2 / np.float32(2 * sigma**2)) * both[:, None, None]


def encode_segmentation(
    joints: ArrayLike, visible: ArrayLike, shape: tuple[int, int], radius: float = 5.0
) -> NDArray[np.float32]:
    """Return SG-HRNet's segmentation target (equation 2): 1 within ``radius`` of any labelled joint, else 0.

    We read the exponent of equation 2 as the index of the 2-norm, and its radius and map as heat-map pixels.

    Args:
        joints, visible, shape: see :func:`encode_joints`.
        radius: in heat-map pixels.

    Returns:
        (h, w) float32, 0 or 1.
    """
    points = np.asarray(joints, dtype=np.float32)[np.asarray(visible) > 0] / STRIDE
    dx2 = (np.arange(shape[1], dtype=np.float32) - points[:, :1]) ** 2
    dy2 = (np.arange(shape[0], dtype=np.float32) - points[:, 1:]) ** 2
    near = dy2[:, :, None] + dx2[:, None, :] <= radius**2
    return np.asarray(near.any(axis=0), dtype=np.float32)


def decode(heatmaps: ArrayLike) -> NDArray[np.float32]:
    """Decode heat-maps (N, J, h, w): the maximum, moved a quarter pixel towards the higher neighbour on each axis.

    The first maximum in row-major order wins. The offset is applied only where ``1 < x < w - 1`` and ``1 < y < h - 1``
    (HRNet's bounds, which are not symmetric). A maximum that is not positive gives (0, 0) and keeps its score.

    Returns:
        (N, J, 3) float32: x, y in crop pixels (4 x heat-map), and the maximum as score.
    """
    maps = np.asarray(heatmaps)
    n, joints, height, width = maps.shape
    flat = maps.reshape(n, joints, height * width)
    index = flat.argmax(axis=2)
    score = np.take_along_axis(flat, index[..., None], axis=2)[..., 0]
    y, x = np.divmod(index, width)
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)

    def neighbour(dx: int, dy: int) -> NDArray[np.floating]:
        near = np.clip(y + dy, 0, height - 1) * width + np.clip(x + dx, 0, width - 1)
        return np.take_along_axis(flat, near[..., None], axis=2)[..., 0]

    offset_x = 0.25 * np.sign(neighbour(1, 0) - neighbour(-1, 0)) * inside
    offset_y = 0.25 * np.sign(neighbour(0, 1) - neighbour(0, -1)) * inside
    points = np.stack([x + offset_x, y + offset_y], axis=-1) * (score > 0)[..., None]
    return np.concatenate([points * STRIDE, score[..., None]], axis=-1).astype(np.float32)


def decode_dark(heatmaps: ArrayLike, sigma: float = 2.0) -> NDArray[np.float32]:
    """Decode heat-maps to keypoints with the sub-pixel centre of distribution-aware decoding.

    Source: Zhang et al., Distribution-Aware Coordinate Representation for Human Pose Estimation, CVPR 2020. The map is
    smoothed with the training targets' Gaussian (equation 10). One Newton step on its logarithm P leads from its
    maximum m to the Gaussian's centre, ``m - P''(m)^-1 P'(m)`` (equation 9). The derivatives are central differences,
    which are exact for a Gaussian. Equation 11's rescaling is left out: a factor on the map does not change the
    derivatives of its logarithm.

    The keypoint is :func:`decode`'s within two pixels of a border, where the map around m is flat, not positive or not
    a peak, and where the step would exceed one pixel on an axis. Scores are always those of :func:`decode`.

    Args:
        heatmaps: (N, J, h, w) float.
        sigma: of the smoothing, in heat-map pixels. Evaluation always takes 2, the sigma of all recipes' targets:
            checkpoints and bundles do not record it, so after ``--set sigma=3`` it is smaller than the paper's.

    Returns:
        (N, J, 3) float32: x, y in crop pixels (4 x heat-map), and the maximum of the unsmoothed map as score.
    """
    maps = np.asarray(heatmaps)
    n, joints, height, width = maps.shape
    keypoints = decode(maps)
    y, x = np.divmod(maps.reshape(n, joints, height * width).argmax(axis=2), width)
    # Nearer to a border, the smoothing, which assumes zeros outside, would pull the maximum inwards by half a pixel.
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    sample, joint = np.nonzero(inside & (keypoints[..., 2] > 0))
    x, y = x[sample, joint], y[sample, joint]
    smooth = _blur_matrix(height, sigma) @ maps[sample, joint] @ _blur_matrix(width, sigma).T

    def log_at(dx: int, dy: int) -> NDArray[np.float64]:
        return np.log(np.maximum(smooth[np.arange(len(x)), y + dy, x + dx], 1e-10))

    centre = log_at(0, 0)
    gradient = np.stack([log_at(1, 0) - log_at(-1, 0), log_at(0, 1) - log_at(0, -1)], axis=-1) / 2
    xx, yy = log_at(1, 0) - 2 * centre + log_at(-1, 0), log_at(0, 1) - 2 * centre + log_at(0, -1)
    xy = (log_at(1, 1) - log_at(1, -1) - log_at(-1, 1) + log_at(-1, -1)) / 4
    determinant = xx * yy - xy**2
    peak = (xx < 0) & (determinant > 1e-12)
    adjugate = np.stack([np.stack([yy, -xy], axis=-1), np.stack([-xy, xx], axis=-1)], axis=-2)
    step = -(adjugate @ gradient[..., None])[..., 0] / np.where(peak, determinant, 1.0)[:, None]
    moved = peak & (np.abs(step) <= 1).all(axis=1)
    centres = np.stack([x, y], axis=-1) + step
    keypoints[sample[moved], joint[moved], :2] = STRIDE * centres[moved]
    return keypoints


def _blur_matrix(length: int, sigma: float) -> NDArray[np.float64]:
    """Return (length, length) float64: in row i, the Gaussian weight of every pixel in the smoothed pixel i."""
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    return np.exp(-(distance**2) / (2 * sigma**2))


def merge_flipped(heatmaps: ArrayLike, flipped: ArrayLike, flip_order: Sequence[int]) -> NDArray[np.float32]:
    """Average the heat-maps of a crop with those of its mirror image.

    The mirrored maps are mirrored back, left and right joints exchanged, and shifted one pixel to the right (column 0
    keeps its value), which aligns the two grids for stride-4 maps (HRNet's ``SHIFT_HEATMAP``).

    Args:
        heatmaps, flipped: (N, J, h, w), as is the result in float32.
        flip_order: :attr:`edgepose.core.skeletons.Skeleton.flip_order`.
    """
    back = np.asarray(flipped)[:, list(flip_order), :, ::-1].copy()
    back[..., 1:] = back[..., :-1].copy()
    return (np.asarray(heatmaps) + back) * np.float32(0.5)
