"""Run the probe of a graph: a copy with every inner tensor as an output."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from ..backends.plan import open_graph
from ..backends.session import Arrays
from ..graphs.probe import READ


def run_probe(probe: Path, backend: str, feeds: Arrays) -> Arrays:
    """Return every tensor of a probe (:func:`edgepose.graphs.probe.write_probe`), in FP32 except for the inputs.

    The backend is ``onnxruntime`` or ``openvino``; tensors are named as in the graph.
    """
    with closing(open_graph(probe, backend)) as session:
        tensors = session.run(feeds)
    return {name.removesuffix(READ): np.asarray(tensor) for name, tensor in tensors.items()}
