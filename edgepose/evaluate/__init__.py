"""The command ``eval``: accuracy of a bundle or a checkpoint on labelled persons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..accuracy.scoring import Predictor, Scores, score
from ..backends.plan import Runner, choose
from ..bundle.bundle import open_bundle
from ..bundle.contract import HEATMAPS, IMAGES
from ..core.errors import UsageError
from ..core.files import check_writable
from ..core.geometry import CROP_PADDING, Size
from ..core.images import check_image_name
from ..core.skeletons import Skeleton, get_skeleton
from ..data import load_data
from ..data.detections import detected_samples
from ..data.samples import PoseData
from .report import Accuracy


def evaluate(
    target: Path,
    data: str,
    *,
    boxes: str = "gt",
    flip: bool = False,
    decode: str = "quarter",
    shared_joints: bool = False,
    backend: str = "auto",
    precision: str = "auto",
) -> Accuracy:
    """Evaluate a bundle on one backend in one precision, or a checkpoint in PyTorch, on the val split of a data set.

    Args:
        target: bundle folder or checkpoint file.
        data: KIND:ROOT, see :func:`edgepose.data.load_data`.
        boxes: ``gt`` for the labelled boxes, or a JSON file with a detector's results in COCO's format.
        flip: average with the mirrored crops (the papers' protocol).
        decode: ``quarter`` or ``dark``, see :func:`edgepose.accuracy.scoring.score`.
        shared_joints: score only the joints that both the network and the data set have.
        backend, precision: for a bundle, as in :func:`edgepose.load`; a checkpoint runs in PyTorch in fp32.

    Raises:
        UsageError: target, data or boxes cannot be read, the skeletons differ, or a graph differs from the contract.
    """
    if target.is_file():
        opened = _open_checkpoint(target, backend, precision)
    else:
        opened = _open_runner(choose(open_bundle(target), backend, precision))
    with opened as network:
        split = load_data(data, "val")
        detected = None if boxes == "gt" else detected_samples(split, Path(boxes))
        scores = network.score(split, detected=detected, flip=flip, decode=decode, shared_joints=shared_joints)
    if detected is not None:
        unused = {f"detection: {reason}": names for reason, names in detected.skipped.items()}
        split = replace(split, skipped={**split.skipped, **unused})
    return Accuracy(
        target=str(target),
        backend=network.backend,
        precision=network.precision,
        data=data,
        split=split,
        boxes=boxes,
        flip=flip,
        decode=decode,
        input_size=network.input_size,
        crop_padding=network.crop_padding,
        scores=scores,
    )


def score_runner(runner: Runner, split: PoseData) -> Scores:
    """Score a bundle's network on labelled persons, from labelled boxes.

    Raises:
        UsageError: the network cannot be loaded, differs from the contract, or has other joints than the data.
        CheckError: the network's outputs hold NaN or infinity.
    """
    with _open_runner(runner) as network:
        return network.score(split)


def check_outputs(worst: Path | None, *others: Path | None) -> None:
    """Raise UsageError for outputs that could not be written after the evaluation; None is ignored.

    ``worst``, for :meth:`Accuracy.draw_worst`, also needs the suffix of a picture.
    """
    if worst:
        check_image_name(worst)
    for path in filter(None, (worst, *others)):
        check_writable(path)


@dataclass(frozen=True)
class _Network:
    """The network to evaluate: a function from crops to heat-maps, and its properties."""

    predict: Predictor
    backend: str
    precision: str
    skeleton: Skeleton
    input_size: Size
    crop_padding: float = CROP_PADDING

    def score(self, split: PoseData, **options: Any) -> Scores:
        """Score the network; ``options`` are those of :func:`edgepose.accuracy.scoring.score`."""
        return score(self.predict, split, self.skeleton, self.input_size, padding=self.crop_padding, **options)


@contextmanager
def _open_runner(runner: Runner) -> Iterator[_Network]:
    bundle, manifest, skeleton = runner.bundle, runner.bundle.manifest, runner.bundle.skeleton
    with closing(runner.open()) as session:
        bundle.contract.refuse(session.inputs, session.outputs, remedy=bundle.task.remake)
        if HEATMAPS not in {spec.name for spec in session.outputs}:
            raise UsageError(
                f"the network of {bundle.path} has no output {HEATMAPS}, which eval needs: export it again"
            )

        def predict(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            return session.run({IMAGES: crops})[HEATMAPS]

        yield _Network(predict, runner.backend, runner.precision, skeleton, manifest.input_size, manifest.crop_padding)


@contextmanager
def _open_checkpoint(target: Path, backend: str, precision: str) -> Iterator[_Network]:
    if backend not in ("auto", "torch"):
        raise UsageError(f"{target} is a checkpoint, which runs in PyTorch only: export it to run on {backend}")
    if precision not in ("auto", "fp32"):
        raise UsageError(f"{target} is a checkpoint, which runs in fp32 only: export it to run in {precision}")
    from ..models.checkpoint import load_weights, read_spec
    from ..models.pose_graph import torch_predictor

    stored = read_spec(target)
    if stored is None:
        raise UsageError(f"{target} does not contain the name of its model: export it with that name to a bundle first")
    network = stored.build()
    load_weights(network, target)
    yield _Network(torch_predictor(network), "torch", "fp32", get_skeleton(stored.skeleton), stored.input_size)
