"""The PyTorch network of a bundle behind the graph contract: what its graphs and engines are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.goldens import Goldens
from ..bundle.manifest import CHECKPOINT
from ..bundle.tasks import PERSONS, Task
from ..core.errors import UsageError
from .checkpoint import ModelSpec, load_weights, read_spec
from .pose_graph import PoseGraph
from .yolov3 import PersonGraph, YOLOv3

#: Largest options of a YOLOv3 that a checkpoint may describe.
_LARGEST = {"classes": 1000, "width": 64}


def reference_graph(bundle: Bundle) -> PoseGraph | PersonGraph:
    """Return a bundle's network with its checkpoint's weights, in eval mode, as a graph of its contract.

    Raises:
        UsageError: the checkpoint is missing, damaged, or does not fit the network.
    """
    checkpoint = bundle.path / CHECKPOINT
    if bundle.task is PERSONS:
        return PersonGraph(read_yolov3(checkpoint)).eval()
    network = ModelSpec.of(bundle.manifest).build()
    load_weights(network, checkpoint)
    return PoseGraph(network, with_maps=True).eval()


def make_goldens(graph: PoseGraph | PersonGraph, images: NDArray[np.uint8], task: Task) -> Goldens:
    """Return PyTorch's outputs for ``images`` (N, H, W, 3), in eval mode on the CPU, one image at a time."""
    graph = graph.eval()
    with torch.inference_mode():
        results = [graph(torch.from_numpy(image[None])) for image in images]
    arrays = [torch.cat(parts).numpy() for parts in zip(*results, strict=True)]
    return Goldens(images, dict(zip(graph.outputs, arrays, strict=True)), task)


def read_yolov3(checkpoint: Path) -> YOLOv3:
    """Return the YOLOv3 in a checkpoint written by edgepose; raise UsageError if there is another network in it."""
    spec = read_spec(checkpoint)
    options = {} if spec is None or spec.model != "yolov3" else spec.options
    known = {name: options.get(name) for name in _LARGEST}
    if known != options or not all(type(n) is int and 1 <= n <= _LARGEST[name] for name, n in known.items()):
        raise UsageError(f"{checkpoint} holds no YOLOv3: expected yolov3.weights, or the checkpoint of such a bundle")
    network = YOLOv3(**options)
    load_weights(network, checkpoint)
    return network
