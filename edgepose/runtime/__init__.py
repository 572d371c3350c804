"""Detector-plus-pose pipelines on edge devices. Works without torch, CUDA or TensorRT."""

from ..core.pose import People, Pose
from ..detectors.detector import Detections, Detector, NetworkDetector
from ..detectors.kinds import open_detector
from .draw import draw_poses
from .pipeline import Pipeline
from .pose import PoseEstimator, load
from .sources import Frame, Source, open_source

__all__ = [
    "Detections",
    "Detector",
    "Frame",
    "NetworkDetector",
    "People",
    "Pipeline",
    "Pose",
    "PoseEstimator",
    "Source",
    "draw_poses",
    "load",
    "open_detector",
    "open_source",
]
