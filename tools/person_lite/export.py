"""Export the detector's weights as a portable ONNX graph."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from edgepose.core.errors import CheckError, UsageError
from edgepose.core.geometry import Size
from edgepose.export.to_onnx import run_graph, save_graph, simplify, trace
from edgepose.models.checkpoint import load_weights
from tools.person_lite.network import DetectorGraph, PersonLite

#: Largest difference of a score from PyTorch's: both compute the same float32 sums, in another order.
_LIMIT = 1e-4


def load_detector(path: Path) -> PersonLite:
    """Read the network with weights from a file, in eval mode.

    Raises:
        UsageError: the file cannot be read, or holds the weights of another network.
    """
    network = PersonLite()
    load_weights(network, path)
    return network.eval()


def export_detector(network: PersonLite, size: Size, path: Path) -> None:
    """Write the network as FP32 ONNX: see :class:`DetectorGraph`; N is dynamic, height and width are fixed.

    Args:
        network: it is not modified.
        size: (height, width) of the input, multiples of 32.
        path: the file to write.

    Raises:
        UsageError: onnx, onnxscript or onnxsim is not installed, the size does not fit, or ``path`` cannot be written.
        CheckError: the graph does not give PyTorch's scores.
    """
    if min(size) < 32 or size[0] % 32 or size[1] % 32:
        raise UsageError(f"size {size[0]}x{size[1]}: expected multiples of 32")
    graph = DetectorGraph(copy.deepcopy(network)).eval()
    outputs = ("boxes", "scores")
    model = simplify(trace(graph, size, outputs))
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    _, got = run_graph(model, images, outputs)
    with torch.inference_mode():
        _, want = graph(torch.from_numpy(images))
    error = float(np.abs(got - want.numpy()).max())
    if not error <= _LIMIT:
        raise CheckError(f"the exported graph's scores are {error:.1e} off PyTorch's (limit {_LIMIT:.0e})")
    save_graph(model, path)
