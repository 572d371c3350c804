"""How accurate and how fast a graph is, on crops and a backend of this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
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

from ..accuracy.agreement import Agreement, agreement, person_agreement, person_precision, precision_beside
from ..backends.plan import choose, open_graph
from ..backends.session import Session
from ..build import BuildOptions, build_engine
from ..bundle.bundle import Bundle, open_bundle, write_manifest
from ..bundle.contract import BOXES, IMAGES, KEYPOINTS, SCORES
from ..bundle.tasks import PERSONS, POSE
from ..core.errors import CheckError
from ..core.geometry import Size
from ..core.skeletons import Skeleton
from ..core.timing import Budget, time_calls
from .crops import CropSet

if TYPE_CHECKING:
    import onnx

#: Opens a graph for as long as it is measured.
Opener = Callable[["onnx.ModelProto"], AbstractContextManager[Session]]

#: Crops a call when keypoints are computed; latency is that of one crop.
_BATCH = 8
#: How long a latency is measured.
_BUDGET = Budget(warm_up=5, calls=200, seconds=2.0)


@dataclass(frozen=True)
class Scorer(ABC):
    """Measures graphs; there is one for each kind of network.

    Attributes:
        crops: (N, H, W, 3) uint8, not those that the ranges were collected from.
        fp32: what the FP32 graph finds on them, as :meth:`find` gives it.
        open_model: opens a graph on what is measured.
    """

    crops: NDArray[np.uint8]
    fp32: NDArray[np.float32]
    open_model: Opener

    def find(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """What a graph finds on the crops.

        Raises:
            CheckError: numbers that are not finite.
        """
        with self.open_model(model) as session:
            found = self.read(session, self.crops)
        if not np.isfinite(found).all():
            raise CheckError("a candidate graph gives NaN or infinity: scan the ranges on more crops")
        return found

    @staticmethod
    @abstractmethod
    def read(session: Session, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What a network finds on crops."""

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Whether accuracy is measured beside labels, and not beside FP32."""

    @abstractmethod
    def agreement(self, found: NDArray[np.float32]) -> Agreement:
        """How what was found compares with FP32's."""

    @abstractmethod
    def accuracy(self, found: NDArray[np.float32]) -> float:
        """Average precision in percent, beside the labels, or beside FP32 where there are none."""

    def latency(self, model: onnx.ModelProto) -> float:
        """Median milliseconds of one crop."""
        with self.open_model(model) as session:
            return median(time_calls(partial(session.run, {IMAGES: self.crops[:1]}), _BUDGET))


@dataclass(frozen=True)
class PoseScorer(Scorer):
    """Finds (N, J, 3): x, y in crop pixels and score of keypoints.

    Attributes:
        labels: (N, J, 3) likewise, scored 1 where labelled; None where nobody labelled them.
        skeleton: names the J joints.
        input_size: (height, width) of the crops.
        padding: factor from a person's box to the crop.
    """

    labels: NDArray[np.float32] | None
    skeleton: Skeleton
    input_size: Size
    padding: float

    @staticmethod
    def read(session: Session, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return _run(session, crops, KEYPOINTS)[0]

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def agreement(self, found: NDArray[np.float32]) -> Agreement:
        return agreement(self.fp32, found, self.skeleton, self.input_size, self.padding)

    def accuracy(self, found: NDArray[np.float32]) -> float:
        reference = self.fp32 if self.labels is None else self.labels
        return precision_beside(reference, found, self.skeleton, self.input_size, self.padding)


@dataclass(frozen=True)
class PersonScorer(Scorer):
    """Finds (N, K, 5): corners of boxes, xyxy in pixels of the picture, and scores."""

    @staticmethod
    def read(session: Session, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        boxes, scores = _run(session, crops, BOXES, SCORES)
        return np.concatenate([boxes, scores[..., None]], axis=-1)

    @property
    def labelled(self) -> bool:
        return False

    def agreement(self, found: NDArray[np.float32]) -> Agreement:
        return person_agreement(self.fp32, found)

    def accuracy(self, found: NDArray[np.float32]) -> float:
        return person_precision(self.fp32, found)


def _pose_scorer(bundle: Bundle, crops: CropSet, count: int, opened: Opener) -> Scorer:
    images, manifest = crops.images[count:], bundle.manifest
    labels = None if crops.labels is None else crops.labels[count:]
    fp32 = _read_fp32(bundle, PoseScorer, images)
    return PoseScorer(images, fp32, opened, labels, bundle.skeleton, manifest.input_size, manifest.crop_padding)


def _person_scorer(bundle: Bundle, crops: CropSet, count: int, opened: Opener) -> Scorer:
    images = crops.images[count:]
    return PersonScorer(images, _read_fp32(bundle, PersonScorer, images), opened)


def _read_fp32(bundle: Bundle, kind: type[Scorer], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with closing(open_graph(bundle.graph)) as session:
        return kind.read(session, images)


_SCORERS = {POSE: _pose_scorer, PERSONS: _person_scorer}


def make_scorer(bundle: Bundle, crops: CropSet, count: int) -> Scorer:
    """Make the scorer of a bundle's network, on ONNX Runtime.

    Args:
        bundle: with the FP32 graph.
        crops: as the network sees them, with labels if there are any.
        count: how many of the first set the ranges; the rest judge.
    """
    return _SCORERS[bundle.task](bundle, crops, count, partial(open_on_cpu, "onnxruntime"))


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
        graph = Path(folder) / bundle.manifest.graph_name("mixed")
        onnx.save(model, graph)
        candidate = write_manifest(Path(folder), replace(bundle.manifest, files={})).with_files(graph)
        build_engine(candidate, target, "mixed", BuildOptions(batches=(1, 1, _BATCH)))
        with closing(choose(open_bundle(candidate.path), target, "mixed").open()) as session:
            yield session


def _run(session: Session, crops: NDArray[np.uint8], *names: str) -> list[NDArray[np.float32]]:
    """The outputs of these names; the others, such as heat-maps, are not kept."""
    parts = []
    for start in range(0, len(crops), _BATCH):
        outputs = session.run({IMAGES: crops[start : start + _BATCH]})
        parts.append([outputs[name] for name in names])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
