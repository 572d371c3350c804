"""edgepose: from a PyTorch pose checkpoint to a verified engine on an edge device, and pipelines that run it.

>>> import edgepose
>>> estimator = edgepose.load("ditn_lite.edgepose")  # doctest: +SKIP
>>> poses = estimator(image_rgb, boxes_xyxy)  # doctest: +SKIP
"""

from importlib.metadata import PackageNotFoundError, version

from .core.errors import CheckError, EdgeposeError, UsageError
from .core.pose import People, Pose
from .runtime.pose import PoseEstimator, load

try:
    __version__ = version("edgepose")
except PackageNotFoundError:  # imported from a checkout that was not installed
    __version__ = "0.0.0"

__all__ = ["CheckError", "EdgeposeError", "People", "Pose", "PoseEstimator", "UsageError", "__version__", "load"]
