"""A data set in LSP's layout that is quick to make and to learn: noise pictures with a white dot on every joint."""

from pathlib import Path

import cv2
import numpy as np


def make_lsp(root: Path, *, persons: int = 8, tests: int = 2) -> Path:
    """``persons`` pictures; the last ``tests`` of them are the test split. The second person lacks joint 3."""
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    joints = rng.uniform(20, 100, size=(persons, 14, 2))
    visible = np.ones((persons, 14))
    visible[1, 3] = 0
    (root / "images").mkdir(parents=True)
    for number, points in enumerate(joints, 1):
        image = rng.integers(0, 60, (120, 120, 3), dtype=np.uint8)
        for x, y in points:
            cv2.circle(image, (round(x), round(y)), 2, (255, 255, 255), -1)
        cv2.imwrite(str(root / "images" / f"im{number:05d}.jpg"), image)
    savemat(root / "joints.mat", {"joints": np.concatenate([joints, visible[..., None]], axis=2).transpose(1, 2, 0)})
    numbers = [str(number) for number in range(1, persons + 1)]
    (root / "train.txt").write_text("\n".join(numbers[:-tests]))
    (root / "test.txt").write_text("\n".join(numbers[-tests:]))
    return root
