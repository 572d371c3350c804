"""Measure the accuracy and latency of graphs on crops, on a backend of this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..accuracy.agreement import Agreement, agreement, oks_ap, person_agreement, person_ap
from ..backends.plan import choose, open_graph
from ..backends.session import Session
from ..build import BuildOptions, build_engine
from ..bundle.bundle import Bundle, write_manifest
from ..bundle.contract import BOXES, IMAGES, KEYPOINTS, SCORES
from ..bundle.manifest import read_manifest
from ..bundle.tasks import PERSONS, POSE, Task
from ..core.errors import CheckError
from ..core.geometry import Size
from ..core.skeletons import Skeleton
from ..core.timing import Budget, time_calls
from .crops import CropSet

if TYPE_CHECKING:
    import onnx

#: Opens a session on a graph, as a context manager.
Opener = Callable[["onnx.ModelProto"], AbstractContextManager[Session]]

#: Crops per call when accuracy is measured; latency is measured with one crop.
_BATCH = 8
#: Bounds of a measurement of latency.
_BUDGET = Budget(warm_up=5, calls=200, seconds=2.0)


@dataclass(frozen=True)
class Scorer(ABC):
    """Measures the graphs of one kind of network.

    Attributes:
        crops: (N, H, W, 3) uint8 RGB, none of which set the ranges.
        fp32: the FP32 graph's results on these crops, in the form of :meth:`find`.
        open_model: opens a graph on the backend to measure.
        labels: (N, J, 3) x, y in crop pixels, and 1 if labelled, else 0; None without labels.
    """

    crops: NDArray[np.uint8]
    fp32: NDArray[np.float32]
    open_model: Opener
    labels: NDArray[np.float32] | None

    def find(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """Return a graph's results on the crops; raise CheckError if they are not finite."""
        with self.open_model(model) as session:
            found = self.read(session, self.crops)
        if not np.isfinite(found).all():
            raise CheckError("a candidate graph gives NaN or infinity: scan the ranges on more images")
        return found

    @staticmethod
    @abstractmethod
    def read(session: Session, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return a network's results on crops, in the form that the subclass describes."""

    @property
    def labelled(self) -> bool:
        """Whether accuracy is measured against labels instead of FP32's results."""
        return self.labels is not None

    @abstractmethod
    def agreement(self, found: NDArray[np.float32]) -> Agreement:
        """Compare results with FP32's."""

    @abstractmethod
    def accuracy(self, found: NDArray[np.float32]) -> float:
        """Return the AP of results in percent, against the labels, or against FP32's results if there are none."""

    def latency(self, model: onnx.ModelProto) -> float:
        """Return a graph's median latency in milliseconds, with one crop."""
        with self.open_model(model) as session:
            return median(time_calls(partial(session.run, {IMAGES: self.crops[:1]}), _BUDGET))


@dataclass(frozen=True)
class PoseScorer(Scorer):
    """Scorer of pose networks; results are keypoints (N, J, 3): x, y in crop pixels, and score.

    ``input_size`` is (height, width) of the crops, ``padding`` the factor from a person's box to the crop.
    """

    skeleton: Skeleton
    input_size: Size
    padding: float

    @staticmethod
    def read(session: Session, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return _run(session, crops, KEYPOINTS)[0]

    def agreement(self, found: NDArray[np.float32]) -> Agreement:
        return agreement(self.fp32, found, self.skeleton, self.input_size, self.padding)

    def accuracy(self, found: NDArray[np.float32]) -> float:
        reference = self.fp32 if self.labels is None else self.labels
        return oks_ap(reference, found, self.skeleton, self.input_size, self.padding)


@dataclass(frozen=True)
class PersonScorer(Scorer):
    """Scorer of detectors; results are boxes (N, K, 5): xyxy in pixels of the network's input, and score."""

    @staticmethod
    def read(session: Session, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        boxes, scores = _run(session, crops, BOXES, SCORES)
        return np.concatenate([boxes, scores[..., None]], axis=-1)

    def agreement(self, found: NDArray[np.float32]) -> Agreement:
        return person_agreement(self.fp32, found)

    def accuracy(self, found: NDArray[np.float32]) -> float:
        return person_ap(self.fp32, found)


def make_scorer(bundle: Bundle, crops: CropSet, count: int) -> Scorer:
    """Make the scorer of a bundle's network, on ONNX Runtime, for all but the first ``count`` of the crops."""
    images, labels = crops.images[count:], None if crops.labels is None else crops.labels[count:]
    kind, details = _SCORERS[bundle.task]
    with closing(open_graph(bundle.graph)) as session:
        fp32 = kind.read(session, images)
    return kind(images, fp32, partial(open_on_cpu, "onnxruntime"), labels, *details(bundle))


def _pose_details(bundle: Bundle) -> tuple[Any, ...]:
    return bundle.skeleton, bundle.manifest.input_size, bundle.manifest.crop_padding


#: By task, the scorer and what it needs to know of the bundle.
_SCORERS: dict[Task, tuple[type[Scorer], Callable[[Bundle], tuple[Any, ...]]]] = {
    POSE: (PoseScorer, _pose_details),
    PERSONS: (PersonScorer, lambda _: ()),
}


@contextmanager
def open_on_cpu(backend: str, model: onnx.ModelProto) -> Iterator[Session]:
    """Open a graph on ``onnxruntime`` or ``openvino``."""
    import onnx

    with TemporaryDirectory() as folder:
        graph = Path(folder) / "candidate.onnx"
        onnx.save(model, graph)
        with closing(open_graph(graph, backend)) as session:
            yield session


@contextmanager
def open_engine(bundle: Bundle, target: str, model: onnx.ModelProto) -> Iterator[Session]:
    """Build an engine of a graph for ``tensorrt`` or ``tensorrt-rtx``; takes seconds on a PC, minutes on a board."""
    import onnx

    with TemporaryDirectory() as folder:
        graph = Path(folder) / bundle.manifest.graph_name("mixed")
        onnx.save(model, graph)
        candidate = write_manifest(Path(folder), replace(bundle.manifest, files={})).with_files(graph)
        build_engine(candidate, target, "mixed", BuildOptions(batches=(1, 1, _BATCH)))
        built = Bundle(candidate.path, read_manifest(candidate.path))
        with closing(choose(built, target, "mixed").open()) as session:
            yield session


def _run(session: Session, crops: NDArray[np.uint8], *names: str) -> list[NDArray[np.float32]]:
    """Return the named outputs for all crops; others, such as heat-maps, are dropped to save memory."""
    parts = []
    for start in range(0, len(crops), _BATCH):
        outputs = session.run({IMAGES: crops[start : start + _BATCH]})
        parts.append([outputs[name] for name in names])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
