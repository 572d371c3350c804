"""Detector-plus-pose pipelines on edge devices. Works without torch, CUDA or TensorRT."""

from ..core.pose import People, Pose
from ..detectors.detector import Detections, Detector, NetworkDetector
from ..detectors.kinds import open_detector
from .draw import draw_poses
from .job import Frame, Job
from .pipeline import Pipeline
from .pose import PoseEstimator, load
from .runners import Policy, run_inline, run_threaded
from .sinks import Sink
from .sources import Source, open_source
from .stages import Stage, person_stages

__all__ = [
    "Detections",
    "Detector",
    "Frame",
    "Job",
    "NetworkDetector",
    "People",
    "Pipeline",
    "Policy",
    "Pose",
    "PoseEstimator",
    "Sink",
    "Source",
    "Stage",
    "draw_poses",
    "load",
    "open_detector",
    "open_source",
    "person_stages",
    "run_inline",
    "run_threaded",
]
