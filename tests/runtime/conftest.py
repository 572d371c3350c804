"""A pose network whose answers are known, and small videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.backends.session import Arrays
from edgepose.bundle.contract import TensorSpec
from edgepose.core.codecs import silence_codecs
from edgepose.core.skeletons import LSP14
from edgepose.detectors.detector import Detections
from edgepose.runtime.pose import PoseEstimator

JOINTS = len(LSP14.joints)


class ColourSession:
    """Finds joint j at the middle of the pixels of colour (16 j + 16, 255, 0); score 0.9, or 0 where there are none."""

    backend = "fake"

    def __init__(self, joints: int = JOINTS, size: tuple[int, int] = (256, 192)) -> None:
        height, width = size
        float32 = np.dtype(np.float32)
        self.inputs = (TensorSpec("images", (None, height, width, 3), np.dtype(np.uint8)),)
        self.outputs = (
            TensorSpec("keypoints", (None, joints, 3), float32),
            TensorSpec("heatmaps", (None, joints, height // 4, width // 4), float32),
        )
        self.batches: list[int] = []
        self.closed = False

    def run(self, feeds: Arrays) -> Arrays:
        crops = feeds["images"].astype(int)
        self.batches.append(len(crops))
        keypoints = np.zeros((len(crops), *self.outputs[0].shape[1:]), np.float32)
        for crop, found in zip(crops, keypoints, strict=True):
            for j in range(len(found)):
                y, x = np.nonzero(np.abs(crop - (16 * j + 16, 255, 0)).max(axis=2) < 6)
                if len(x):
                    found[j] = x.mean(), y.mean(), 0.9
        return {"keypoints": keypoints, "heatmaps": np.zeros((len(crops), *self.outputs[1].shape[1:]), np.float32)}

    def close(self) -> None:
        self.closed = True


class FakeDetector:
    """Finds the given boxes, one set per frame."""

    engine = "fake"

    def __init__(self, *frames: list[list[float]]) -> None:
        self.frames = iter(frames)
        self.closed = False

    def prepare(self, image: np.ndarray) -> Arrays:
        return {"image": image}

    def infer(self, feeds: Arrays) -> Arrays:
        return feeds

    def finish(self, outputs: Arrays, source: tuple[int, int]) -> Detections:
        assert outputs["image"].shape[:2] == source
        boxes = np.array(next(self.frames), dtype=float).reshape(-1, 4)
        return Detections(boxes, np.ones(len(boxes), np.float32))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def session() -> ColourSession:
    return ColourSession()


@pytest.fixture
def estimator(session: ColourSession) -> PoseEstimator:
    return PoseEstimator(session, LSP14, (256, 192))


@pytest.fixture
def paint() -> Callable[[np.ndarray, np.ndarray], None]:
    """Mark joints (J, 2) on a picture, in place, in the colours that ColourSession looks for: 7 pixel squares."""

    def paint_joints(image: np.ndarray, joints: np.ndarray) -> None:
        for j, (x, y) in enumerate(np.asarray(joints, dtype=int)):
            image[y - 3 : y + 4, x - 3 : x + 4] = (16 * j + 16, 255, 0)

    return paint_joints


@pytest.fixture
def person() -> np.ndarray:
    """Joints (14, 2) in a box of 120 x 200 pixels, none beside another."""
    j = np.arange(JOINTS)
    return np.stack([10 + 50 * (j % 3), 10 + 40 * (j // 3)], axis=1)


@pytest.fixture
def make_video() -> Callable[..., Path]:
    """Write a video whose frame i is grey 20 i modulo 256: motion JPEG in AVI, else MPEG-4."""

    def make(path: Path, frames: int = 5, fps: float = 10.0, size: tuple[int, int] = (48, 64)) -> Path:
        silence_codecs()
        code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
        writer = cv2.VideoWriter(str(path), code, fps, size[::-1])
        for i in range(frames):
            writer.write(np.full((*size, 3), 20 * i % 256, np.uint8))
        writer.release()
        return path

    return make
