"""Accuracy of a bundle or a checkpoint on labelled persons: ``edgepose eval``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .bundle import open_bundle
from .errors import UsageError
from .files import write_text
from .metrics import mean_pck
from .runtime.backends import open_session
from .skeletons import get_skeleton
from .train.accuracy import Predictor, evaluate_pck
from .train.checkpoint import ModelSpec, load_weights, read_spec
from .train.data.samples import load_samples


@dataclass(frozen=True)
class Accuracy:
    """PCK@0.2 of torso size on a test split.

    Attributes:
        target: the bundle or checkpoint.
        backend: what ran it.
        data: KIND:ROOT.
        persons: number of labelled persons.
        flip: whether each crop's mirror image was averaged in.
        per_joint: percent by joint name.
        mean: percent, mean over the joints.
    """

    target: str
    backend: str
    data: str
    persons: int
    flip: bool
    per_joint: dict[str, float]
    mean: float

    def table(self) -> str:
        """One line per joint, then the mean."""
        rows = [*self.per_joint.items(), ("mean", self.mean)]
        title = f"PCK@0.2 (torso), {self.persons} persons, {self.backend}{', flip test' if self.flip else ''}"
        return "\n".join([title, *(f"  {name:<16}{value:6.1f} %" for name, value in rows)])

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def evaluate(target: Path, data: str, *, flip: bool = False, backend: str = "auto") -> Accuracy:
    """Evaluate a bundle on one backend, or a checkpoint in PyTorch, on the test split of a data set.

    Args:
        target: bundle folder or checkpoint file.
        data: KIND:ROOT, see :func:`edgepose.train.data.samples.load_samples`.
        flip: average with the mirrored crops (the papers' protocol).
        backend: for a bundle; a checkpoint runs in PyTorch.

    Raises:
        UsageError: target or data cannot be read, or the skeletons differ.
    """
    predictor, spec, name = _open(target, backend)
    skeleton, samples = get_skeleton(spec.skeleton), load_samples(data, "test")
    if len(samples[0].joints) != len(skeleton.joints):
        raise UsageError(
            f"{target} predicts the {len(skeleton.joints)} joints of {skeleton.name}, "
            f"{data} labels {len(samples[0].joints)}: evaluate on data of the same skeleton"
        )
    per_joint = evaluate_pck(predictor, samples, skeleton, spec.input_size, flip=flip)
    scores = {joint: float(value) for joint, value in zip(skeleton.joints, per_joint, strict=True)}
    return Accuracy(str(target), name, data, len(samples), flip, scores, mean_pck(per_joint))


def _open(target: Path, backend: str) -> tuple[Predictor, ModelSpec, str]:
    if not target.is_file():
        bundle = open_bundle(target)
        session, manifest = open_session(bundle, backend), bundle.manifest
        spec = ModelSpec(manifest.model, manifest.skeleton, manifest.input_size, manifest.options)
        return lambda crops: session.run({"images": crops})["heatmaps"], spec, session.backend
    if backend not in ("auto", "torch"):
        raise UsageError(f"{target} is a checkpoint, which runs in PyTorch only: export it to run on {backend}")
    from .train.trainer import torch_predictor

    stored = read_spec(target)
    if stored is None:
        raise UsageError(f"{target} does not say which model it is of: export it to a bundle first, naming the model")
    network = stored.build()
    load_weights(network, target)
    return torch_predictor(network), stored, "torch"
