"""The command ``build``: TensorRT and TensorRT-RTX engines from a bundle's graphs."""

from .engine import build_engine, cannot_build
from .matrix import build_matrix, plan_matrix
from .options import DEFAULTS, BuildOptions

__all__ = ["DEFAULTS", "BuildOptions", "build_engine", "build_matrix", "cannot_build", "plan_matrix"]
