"""Read Leeds Sports Pose and its extended training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.errors import UsageError
from ..core.geometry import keypoint_box
from .reading import Intake, plausible, read_mat, too_small
from .samples import PoseData, PoseSample


def load_lsp(root: Path, split: str) -> PoseData:
    """Read ``joints.mat`` and ``images/im*.jpg``.

    ``train.txt`` and ``test.txt`` list the 1-based image numbers of the two splits, one per line. Without them, the
    first half of the numbers is ``train`` and the rest ``val`` (LSP's own rule). The data set has no boxes: a person's
    box is computed from the labelled joints (:func:`edgepose.core.geometry.keypoint_box`).
    """
    annotations = root / "joints.mat"
    joints, visible = _read_joints(annotations)
    listing = root / ("train.txt" if split == "train" else "test.txt")
    intake = Intake("lsp", "lsp14", annotations, [root, root / "images"])
    for number in _numbers(listing, len(joints)):
        if not 1 <= number <= len(joints):
            raise UsageError(f"{listing}: got image {number}, expected 1 to {len(joints)}, the images of joints.mat")
        points, seen = joints[number - 1], visible[number - 1]
        names = [f"im{number:0{digits}d}{suffix}" for suffix in (".jpg", ".png") for digits in (5, 4)]
        image = intake.picture(number, *names)
        if image is None:
            continue
        if seen.sum() < 2:
            intake.skip("fewer than two labelled joints", image.name)
        elif not plausible(points[seen]):
            intake.skip("damaged annotation", image.name)
        elif too_small(points[seen]):
            intake.skip("smaller than a pixel", image.name)
        else:
            intake.data.samples.append(PoseSample(image, points, seen, keypoint_box(points[seen]), number))
    return intake.finish()


def _read_joints(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return joints (N, 14, 2), visibility (N, 14); LSP stores (3, 14, N), 0 if visible, its extension (14, 3, N)."""
    if not path.is_file():
        raise UsageError(f"{path} is missing: give the folder that holds joints.mat and images/")
    raw = read_mat(path, "joints")
    if raw.ndim != 3 or 14 not in raw.shape[:2] or 3 not in raw.shape[:2]:
        raise UsageError(f"{path}: 'joints' has shape {raw.shape}, expected (14, 3, N) or (3, 14, N)")
    if raw.shape[0] == 3:
        return raw[:2].transpose(2, 1, 0).astype(np.float64), raw[2].T == 0
    return raw[:, :2].transpose(2, 0, 1).astype(np.float64), raw[:, 2].T > 0


def _numbers(listing: Path, count: int) -> list[int]:
    if listing.exists():
        try:
            return [int(line) for line in listing.read_text().split()]
        except ValueError as error:
            raise UsageError(f"{listing}: expected one image number per line ({error})") from error
    numbers, half = list(range(1, count + 1)), count // 2
    return numbers[:half] if listing.stem == "train" else numbers[half:]
