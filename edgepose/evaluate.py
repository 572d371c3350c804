"""Accuracy of a bundle or a checkpoint on labelled persons: ``edgepose eval``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .bundle import open_bundle
from .errors import UsageError
from .files import write_text
from .geometry import CROP_PADDING, Size
from .metrics import mean_pck
from .runtime.backends import open_session
from .runtime.pose import PoseEstimator
from .skeletons import get_skeleton
from .train.accuracy import Predictor, evaluate_pck
from .train.data import load_samples


@dataclass(frozen=True)
class Accuracy:
    """PCK@0.2 of torso size on a test split.

    Attributes:
        target: the bundle or checkpoint.
        backend: what ran it.
        data: KIND:ROOT.
        persons: number of labelled persons.
        flip: whether each crop's mirror image was averaged in.
        per_joint: percent by joint name; None where no person has that joint labelled.
        mean: percent, mean over the joints with a label.
    """

    target: str
    backend: str
    data: str
    persons: int
    flip: bool
    per_joint: dict[str, float | None]
    mean: float

    def table(self) -> str:
        """One line per joint, then the mean."""
        rows = [*self.per_joint.items(), ("mean", self.mean)]
        cells = [(name, "not labelled" if value is None else f"{value:6.1f} %") for name, value in rows]
        title = f"PCK@0.2 (torso), {self.persons} persons, {self.backend}{', flip test' if self.flip else ''}"
        return "\n".join([title, *(f"  {name:<16}{cell}" for name, cell in cells)])

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def evaluate(target: Path, data: str, *, flip: bool = False, backend: str = "auto") -> Accuracy:
    """Evaluate a bundle on one backend, or a checkpoint in PyTorch, on the test split of a data set.

    Args:
        target: bundle folder or checkpoint file.
        data: KIND:ROOT, see :func:`edgepose.train.data.load_samples`.
        flip: average with the mirrored crops (the papers' protocol).
        backend: for a bundle; a checkpoint runs in PyTorch.

    Raises:
        UsageError: target or data cannot be read, the skeletons differ, or a graph does not keep the contract.
    """
    with ExitStack() as stack:
        network = _open_checkpoint(target, backend) if target.is_file() else _open_bundle(target, backend, stack)
        skeleton, samples = get_skeleton(network.skeleton), load_samples(data, "test")
        if len(samples[0].joints) != len(skeleton.joints):
            raise UsageError(
                f"{target} predicts the {len(skeleton.joints)} joints of {skeleton.name}, "
                f"{data} labels {len(samples[0].joints)}: evaluate on data of the same skeleton"
            )
        per_joint = evaluate_pck(
            network.predict, samples, skeleton, network.input_size, flip=flip, padding=network.crop_padding
        )
    percent = [None if np.isnan(value) else float(value) for value in per_joint]
    scores = dict(zip(skeleton.joints, percent, strict=True))
    return Accuracy(str(target), network.backend, data, len(samples), flip, scores, mean_pck(per_joint))


@dataclass(frozen=True)
class _Network:
    predict: Predictor
    backend: str
    skeleton: str
    input_size: Size
    crop_padding: float = CROP_PADDING


def _open_bundle(target: Path, backend: str, stack: ExitStack) -> _Network:
    bundle = open_bundle(target)
    session, manifest = open_session(bundle, backend), bundle.manifest
    stack.callback(session.close)
    PoseEstimator(session, bundle.skeleton, manifest.input_size)  # refuses a graph that does not keep the contract

    def predict(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return session.run({"images": crops})["heatmaps"]

    return _Network(predict, session.backend, manifest.skeleton, manifest.input_size, manifest.crop_padding)


def _open_checkpoint(target: Path, backend: str) -> _Network:
    if backend not in ("auto", "torch"):
        raise UsageError(f"{target} is a checkpoint, which runs in PyTorch only: export it to run on {backend}")
    from .train.checkpoint import load_weights, read_spec
    from .train.trainer import torch_predictor

    stored = read_spec(target)
    if stored is None:
        raise UsageError(f"{target} does not say which model it is of: export it to a bundle first, naming the model")
    network = stored.build()
    load_weights(network, target)
    return _Network(torch_predictor(network), "torch", stored.skeleton, stored.input_size)
