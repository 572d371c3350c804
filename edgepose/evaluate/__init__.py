"""Accuracy of a bundle or a checkpoint on labelled persons: ``edgepose eval``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..accuracy.scoring import Predictor, score
from ..backends.plan import choose, open_session
from ..bundle.bundle import open_bundle
from ..core.errors import UsageError
from ..core.files import check_writable
from ..core.geometry import CROP_PADDING, Size
from ..core.images import check_image_name
from ..core.skeletons import get_skeleton
from ..data import load_data
from ..data.detections import detected_samples
from ..runtime.pose import PoseEstimator
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
        shared_joints: score only the joints that the network and the data set both name.
        backend: for a bundle; a checkpoint runs in PyTorch.
        precision: for a bundle, as in :func:`edgepose.load`; a checkpoint computes in fp32.

    Raises:
        UsageError: target, data or boxes cannot be read, the skeletons differ, or a graph does not keep the contract.
    """
    with ExitStack() as stack:
        if target.is_file():
            network = _open_checkpoint(target, backend, precision)
        else:
            network = _open_bundle(target, backend, precision, stack)
        split = load_data(data, "val")
        detected = None if boxes == "gt" else detected_samples(split, Path(boxes))
        scores = score(
            network.predict,
            split,
            get_skeleton(network.skeleton),
            network.input_size,
            detected=detected,
            flip=flip,
            decode=decode,
            padding=network.crop_padding,
            shared_joints=shared_joints,
        )
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


def check_outputs(worst: Path | None, *others: Path | None) -> None:
    """Refuse at once what an evaluation could not write in the end. Nothing is left on the disk.

    Args:
        worst: for :meth:`Accuracy.draw_worst`; None where it is not wanted.
        others: for :meth:`Accuracy.save` and :meth:`Accuracy.save_results`; None where they are not wanted.

    Raises:
        UsageError: a folder cannot be written to, a path is a folder, or the ending of ``worst`` is of no picture.
    """
    if worst:
        check_image_name(worst)
    for path in filter(None, (worst, *others)):
        check_writable(path)


@dataclass(frozen=True)
class _Network:
    predict: Predictor
    backend: str
    precision: str
    skeleton: str
    input_size: Size
    crop_padding: float = CROP_PADDING


def _open_bundle(target: Path, backend: str, precision: str, stack: ExitStack) -> _Network:
    bundle = open_bundle(target)
    backend, precision = choose(bundle, backend, precision)
    session, manifest = open_session(bundle, backend, precision), bundle.manifest
    stack.callback(session.close)
    PoseEstimator(session, bundle.skeleton, manifest.input_size)  # refuses a graph that does not keep the contract

    def predict(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return session.run({"images": crops})["heatmaps"]

    return _Network(predict, session.backend, precision, manifest.skeleton, manifest.input_size, manifest.crop_padding)


def _open_checkpoint(target: Path, backend: str, precision: str) -> _Network:
    if backend not in ("auto", "torch"):
        raise UsageError(f"{target} is a checkpoint, which runs in PyTorch only: export it to run on {backend}")
    if precision not in ("auto", "fp32"):
        raise UsageError(f"{target} is a checkpoint, which runs in fp32 only: export it to run in {precision}")
    from ..models.checkpoint import load_weights, read_spec
    from ..models.predictor import torch_predictor

    stored = read_spec(target)
    if stored is None:
        raise UsageError(f"{target} does not say which model it is of: export it to a bundle first, naming the model")
    network = stored.build()
    load_weights(network, target)
    return _Network(torch_predictor(network), "torch", "fp32", stored.skeleton, stored.input_size)
