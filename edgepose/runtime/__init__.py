"""Detector-plus-pose pipelines on edge devices. Works without torch, CUDA or TensorRT."""

from .detect import Detections, NetworkDetector, PeakDetector, YoloxDetector, open_detector
from .draw import draw_poses
from .pipeline import Pipeline
from .pose import Pose, PoseEstimator, load
from .sources import Frame, Source, open_source

__all__ = [
    "Detections",
    "Frame",
    "NetworkDetector",
    "PeakDetector",
    "Pipeline",
    "Pose",
    "PoseEstimator",
    "Source",
    "YoloxDetector",
    "draw_poses",
    "load",
    "open_detector",
    "open_source",
]
