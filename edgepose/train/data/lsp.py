"""Leeds Sports Pose and its extended training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UsageError, missing_extra
from ...geometry import keypoint_box
from .samples import PoseSample


def load_lsp(root: Path, split: str) -> list[PoseSample]:
    """Read ``joints.mat`` and ``images/im*.jpg``.

    ``SPLIT.txt`` lists the 1-based image numbers of a split, one a line; without such files the first half of the
    numbers is ``train`` and the rest ``test`` (LSP's own rule). The person's box is drawn around the labelled joints
    (:func:`edgepose.geometry.keypoint_box`), because the data set has none.

    Args:
        root: folder of the data set.
        split: ``train`` or ``test``.

    Raises:
        UsageError: a file is missing or does not hold what LSP holds.
    """
    joints, visible = _read_joints(root / "joints.mat")
    samples = []
    for number in _numbers(root, split, len(joints)):
        image = _image_path(root / "images", number)
        if not 1 <= number <= len(joints):
            raise UsageError(f"{root / (split + '.txt')}: image {number} has no column in joints.mat ({len(joints)})")
        seen = visible[number - 1]
        if seen.sum() < 2:
            continue
        points = joints[number - 1]
        samples.append(PoseSample(image, points, seen, keypoint_box(points[seen])))
    if not samples:
        raise UsageError(f"{root}: the split {split!r} has no labelled person")
    return samples


def _read_joints(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 14, 2) joints and (N, 14) visibility; LSP stores (3, 14, N) with 0 = visible, the extension (14, 3, N)."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise missing_extra("scipy", "train") from error
    if not path.is_file():
        raise UsageError(f"{path} is missing: give the folder that holds joints.mat and images/")
    try:
        raw = loadmat(path)["joints"]
    except Exception as error:  # scipy raises many types for a damaged file
        raise UsageError(f"{path} is not a readable LSP annotation file: {error}") from error
    if raw.ndim != 3 or 14 not in raw.shape[:2] or 3 not in raw.shape[:2]:
        raise UsageError(f"{path}: 'joints' has shape {raw.shape}, expected (14, 3, N) or (3, 14, N)")
    if raw.shape[0] == 3:
        return raw[:2].transpose(2, 1, 0).astype(np.float64), raw[2].T == 0
    return raw[:, :2].transpose(2, 0, 1).astype(np.float64), raw[:, 2].T > 0


def _numbers(root: Path, split: str, count: int) -> list[int]:
    listing = root / f"{split}.txt"
    if listing.exists():
        try:
            return [int(line) for line in listing.read_text().split()]
        except ValueError as error:
            raise UsageError(f"{listing}: expected one image number a line ({error})") from error
    if split not in ("train", "test"):
        raise UsageError(f"{listing} is missing: LSP without lists has the splits train and test")
    half = count // 2
    return list(range(1, half + 1)) if split == "train" else list(range(half + 1, count + 1))


def _image_path(folder: Path, number: int) -> Path:
    for name in (f"im{number:05d}.jpg", f"im{number:04d}.jpg"):
        if (folder / name).exists():
            return folder / name
    raise UsageError(f"{folder} has no image number {number} (im{number:05d}.jpg)")
