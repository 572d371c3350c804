"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    return path
