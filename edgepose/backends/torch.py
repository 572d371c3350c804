"""PyTorch on the CPU: the reference that the other backends are verified against.

The one place in the runtime that reaches into ``edgepose.train``, and only when it is asked for: the reference needs
the network itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.manifest import CHECKPOINT
from ..core.errors import missing_extra
from ..core.heatmaps import STRIDE
from .session import Arrays, TensorSpec, check_feeds, engine_errors, require_open


class TorchSession:
    """A bundle's checkpoint behind the graph contract, in eager mode.

    Raises:
        UsageError: PyTorch is not installed, or the checkpoint does not fit the network.
    """

    backend = "torch"

    def __init__(self, bundle: Bundle) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing_extra("torch") from error
        from ..models.checkpoint import ModelSpec, load_weights
        from ..models.pose_graph import PoseGraph

        manifest = bundle.manifest
        network = ModelSpec(manifest.model, manifest.skeleton, manifest.input_size, manifest.options).build()
        load_weights(network, bundle.path / CHECKPOINT)
        self._torch = torch
        self._graph: Any = PoseGraph(network).eval()
        height, width = manifest.input_size
        joints = len(bundle.skeleton.joints)
        float32 = np.dtype(np.float32)
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("images", (None, height, width, 3), np.dtype(np.uint8)),)
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec("keypoints", (None, joints, 3), float32),
            TensorSpec("heatmaps", (None, joints, height // STRIDE, width // STRIDE), float32),
        )

    def run(self, feeds: Arrays) -> Arrays:
        require_open(self._graph)
        check_feeds(self, feeds)
        with engine_errors(self.backend, feeds), self._torch.inference_mode():
            results = self._graph(self._torch.from_numpy(feeds["images"]))
            return {spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        self._graph = None
