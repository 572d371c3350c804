"""edgepose: from a PyTorch pose checkpoint to a verified engine on an edge device, and pipelines that run it.

>>> import edgepose
>>> estimator = edgepose.load("ditn_lite.edgepose")  # doctest: +SKIP
>>> people = estimator(image_rgb, boxes_xyxy)  # doctest: +SKIP

From frame to frame, with a detector:

>>> pipeline = edgepose.Pipeline(estimator, edgepose.open_detector("person_lite"))  # doctest: +SKIP
>>> picture = edgepose.draw_poses(image_rgb, pipeline.process(image_rgb), estimator.skeleton)  # doctest: +SKIP
"""

from .core.errors import CheckError, EdgeposeError, UsageError
from .core.pose import People, Pose
from .detectors.kinds import open_detector
from .runtime.draw import draw_poses
from .runtime.pipeline import Pipeline
from .runtime.pose import PoseEstimator, load

__version__ = "0.1.0"

__all__ = [
    "CheckError",
    "EdgeposeError",
    "People",
    "Pipeline",
    "Pose",
    "PoseEstimator",
    "UsageError",
    "__version__",
    "draw_poses",
    "load",
    "open_detector",
]
