"""How accurate and how fast a graph is, on crops and a backend of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle, graph_name, open_bundle, write_manifest
from ..errors import CheckError
from ..export.build_options import BuildOptions
from ..export.engine import build_engine
from ..geometry import Size
from ..runtime.backends import open_graph, open_session
from ..runtime.session import Session
from ..skeletons import Skeleton
from ..timing import Budget, time_calls
from .agreement import Agreement, agreement, precision_beside

if TYPE_CHECKING:
    import onnx

#: Opens a graph for as long as it is measured.
Opener = Callable[["onnx.ModelProto"], AbstractContextManager[Session]]

#: Crops a call when keypoints are computed; latency is that of one crop.
_BATCH = 8
#: How long a latency is measured.
_BUDGET = Budget(warm_up=5, calls=200, seconds=2.0)


@dataclass(frozen=True)
class Judge:
    """Measures graphs.

    Attributes:
        crops: (N, H, W, 3) uint8, not those that the ranges were collected from.
        fp32: (N, J, 3): x, y in crop pixels and score of the FP32 graph's keypoints.
        labels: (N, J, 3) likewise, scored 1 where labelled; None where nobody labelled them.
        skeleton: names the J joints.
        input_size: (height, width) of the crops.
        padding: factor from a person's box to the crop.
        open_model: opens a graph on what is measured.
    """

    crops: NDArray[np.uint8]
    fp32: NDArray[np.float32]
    labels: NDArray[np.float32] | None
    skeleton: Skeleton
    input_size: Size
    padding: float
    open_model: Opener

    def keypoints(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """(N, J, 3): what a graph finds on the crops.

        Raises:
            CheckError: numbers that are not finite.
        """
        with self.open_model(model) as session:
            keypoints = keypoints_of(session, self.crops)
        if not np.isfinite(keypoints).all():
            raise CheckError("a candidate graph gives NaN or infinity: scan the ranges on more crops")
        return keypoints

    def agreement(self, keypoints: NDArray[np.float32]) -> Agreement:
        """How keypoints compare with those of FP32."""
        return agreement(self.fp32, keypoints, self.skeleton, self.input_size, self.padding)

    def accuracy(self, keypoints: NDArray[np.float32]) -> float:
        """Average precision in percent, beside the labels, or beside FP32 where there are none."""
        reference = self.fp32 if self.labels is None else self.labels
        return precision_beside(reference, keypoints, self.skeleton, self.input_size, self.padding)

    def latency(self, model: onnx.ModelProto) -> float:
        """Median milliseconds of one crop."""
        with self.open_model(model) as session:
            return median(time_calls(partial(session.run, {"images": self.crops[:1]}), _BUDGET))


@contextmanager
def open_on_cpu(backend: str, model: onnx.ModelProto) -> Iterator[Session]:
    """A graph on ``onnxruntime`` or ``openvino``."""
    import onnx

    with TemporaryDirectory() as folder:
        graph = Path(folder) / "candidate.onnx"
        onnx.save(model, graph)
        with closing(open_graph(graph, backend)) as session:
            yield session


@contextmanager
def open_engine(bundle: Bundle, target: str, model: onnx.ModelProto) -> Iterator[Session]:
    """A graph as an engine of this machine, built for it: seconds on a PC, minutes on a board.

    Args:
        bundle: whose network the graph is of.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        model: the graph.
    """
    import onnx

    with TemporaryDirectory() as folder:
        graph = Path(folder) / graph_name("mixed")
        onnx.save(model, graph)
        candidate = write_manifest(Path(folder), replace(bundle.manifest, files={})).with_files(graph)
        build_engine(candidate, target, "mixed", BuildOptions(batches=(1, 1, _BATCH)))
        with closing(open_session(open_bundle(candidate.path), target, "mixed")) as session:
            yield session


def keypoints_of(session: Session, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, J, 3): x, y in crop pixels and score, of crops (N, H, W, 3)."""
    starts = range(0, len(crops), _BATCH)
    return np.concatenate([session.run({"images": crops[start : start + _BATCH]})["keypoints"] for start in starts])
