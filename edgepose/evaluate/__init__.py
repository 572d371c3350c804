"""The command ``eval``: accuracy of a bundle or a checkpoint on labelled persons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..accuracy.coco import Result
from ..accuracy.scoring import Scores, crop_samples, predict, rescored, score
from ..backends.plan import Runner, choose
from ..bundle.bundle import open_bundle
from ..bundle.contract import BONES, HEATMAPS, IMAGES, SEGMENTATION
from ..bundle.tasks import Outputs
from ..core.errors import UsageError
from ..core.files import check_writable
from ..core.geometry import CROP_PADDING, Size
from ..core.images import check_image_name
from ..core.skeletons import Skeleton, get_skeleton
from ..data import load_data
from ..data.detections import detected_samples
from ..data.samples import PoseData, PoseSample
from .published import published_flip
from .report import WORST, Accuracy, ServerResults

__all__ = [
    "WORST",
    "Accuracy",
    "ServerResults",
    "check_outputs",
    "evaluate",
    "predict_test_dev",
    "score_runner",
]


def evaluate(
    target: Path,
    data: str,
    *,
    boxes: str = "gt",
    flip: bool = False,
    decode: str = "quarter",
    as_published: bool = False,
    shared_joints: bool = False,
    backend: str = "auto",
    precision: str = "auto",
    worst: int = 0,
) -> Accuracy:
    """Evaluate a bundle on one backend in one precision, or a checkpoint in PyTorch, on the val split of a data set.

    Args:
        target: bundle folder or checkpoint file.
        data: KIND:ROOT, see :func:`edgepose.data.load_data`.
        boxes: ``gt`` for the labelled boxes, or a JSON file with a detector's results in COCO's format.
        flip: average with the mirrored crops (the papers' protocol).
        decode: ``quarter`` or ``dark``, see :func:`edgepose.accuracy.scoring.score`.
        as_published: flip where the tables of the network's paper do, and only there.
        shared_joints: score only the joints that both the network and the data set have.
        backend, precision: for a bundle, as in :func:`edgepose.load`; a checkpoint runs in PyTorch in fp32.
        worst: number of the worst persons to keep DITN's bone maps, or SG-HRNet's segmentation maps, of, where the
            network gives them, for :meth:`Accuracy.draw_worst`.

    Raises:
        UsageError: target, data or boxes cannot be read, the skeletons differ, a graph differs from the contract, or
            ``as_published`` comes with another protocol.
    """
    with _open(target, backend, precision) as network:
        flip, published = _protocol(network, flip, decode, as_published)
        split = load_data(data, "val")
        detected = None if boxes == "gt" else detected_samples(split, Path(boxes))
        scores = network.score(split, detected=detected, flip=flip, decode=decode, shared_joints=shared_joints)
        maps = network.maps_of({i: scores.persons[i].sample for i in scores.worst(worst)})
    settings = network.settings(target, data, _with_unused(split, detected), boxes, flip, decode)
    return Accuracy(**settings, scores=scores, published=published, maps=maps)


def predict_test_dev(
    target: Path,
    data: str,
    *,
    boxes: str,
    flip: bool = False,
    decode: str = "quarter",
    as_published: bool = False,
    backend: str = "auto",
    precision: str = "auto",
) -> ServerResults:
    """Predict the persons that a detector found in COCO's test-dev pictures, for COCO's evaluation server.

    The arguments are those of :func:`evaluate`; test-dev has no labelled boxes, so ``boxes`` must be a file.

    Raises:
        UsageError: as for :func:`evaluate`, or the network predicts other joints than COCO's.
    """
    if boxes == "gt":
        raise UsageError("test-dev has no labelled boxes: give a detector's results with boxes (--boxes FILE)")
    with _open(target, backend, precision) as network:
        flip, published = _protocol(network, flip, decode, as_published)
        split = load_data(data, "test-dev")
        if network.skeleton.name != split.skeleton:
            raise UsageError(f"{target} predicts the joints of {network.skeleton.name}, test-dev needs coco17's")
        detected = detected_samples(split, Path(boxes))
        place = {number: index for index, number in enumerate(split.pictures)}
        detected.samples.sort(key=lambda sample: place[sample.image_id])  # so each picture is read once
        results = network.results(detected.samples, flip, decode)
    settings = network.settings(target, data, _with_unused(split, detected), boxes, flip, decode)
    return ServerResults(**settings, results=results, published=published)


def _protocol(network: _Network, flip: bool, decode: str, as_published: bool) -> tuple[bool, str | None]:
    """Return whether to flip, and if the network's paper decides that, where it says so."""
    if not as_published:
        return flip, None
    if flip or decode != "quarter":
        raise UsageError("as_published takes the paper's flip test and decoding: leave --flip and --decode out")
    return published_flip(network.model)


def _with_unused(split: PoseData, detected: PoseData | None) -> PoseData:
    """Return a split that also names the detections that could not be used."""
    if detected is None:
        return split
    unused = {f"detection: {reason}": names for reason, names in detected.skipped.items()}
    return replace(split, skipped={**split.skipped, **unused})


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
    """The network to evaluate: a function from crops to its outputs by name, and its properties."""

    infer: Callable[[NDArray[np.uint8]], Outputs]
    model: str
    backend: str
    precision: str
    skeleton: Skeleton
    input_size: Size
    crop_padding: float = CROP_PADDING

    def predict(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return heat-maps (N, J, h, w)."""
        return self.infer(crops)[HEATMAPS]

    def maps_of(self, samples: dict[int, PoseSample]) -> dict[int, Outputs]:
        """Return, by the same numbers, the further maps that the network gives of the crops of some persons."""
        if not samples:
            return {}
        outputs = self.infer(crop_samples(list(samples.values()), self.input_size, self.crop_padding)[0])
        names = [name for name in (BONES, SEGMENTATION) if name in outputs]
        return {key: {name: outputs[name][i] for name in names} for i, key in enumerate(samples)}

    def score(self, split: PoseData, **options: Any) -> Scores:
        """Score the network; ``options`` are those of :func:`edgepose.accuracy.scoring.score`."""
        return score(self.predict, split, self.skeleton, self.input_size, padding=self.crop_padding, **options)

    def results(self, samples: list[PoseSample], flip: bool, decode: str) -> list[Result]:
        """Predict the persons of ``samples`` as COCO results."""
        size, padding = self.input_size, self.crop_padding
        poses = predict(self.predict, samples, self.skeleton, size, flip=flip, decode=decode, padding=padding)
        return rescored(samples, poses, self.skeleton, size, padding)

    def settings(self, target: Path, data: str, split: PoseData, boxes: str, flip: bool, decode: str) -> dict[str, Any]:
        """Return the fields of :class:`edgepose.evaluate.report.Evaluation`."""
        how = {"data": data, "split": split, "boxes": boxes, "flip": flip, "decode": decode}
        own = {name: getattr(self, name) for name in ("backend", "precision", "input_size", "crop_padding")}
        return {"target": str(target), **how, **own}


def _open(target: Path, backend: str, precision: str) -> AbstractContextManager[_Network]:
    if target.is_file():
        return _open_checkpoint(target, backend, precision)
    return _open_runner(choose(open_bundle(target), backend, precision))


@contextmanager
def _open_runner(runner: Runner) -> Iterator[_Network]:
    bundle, manifest, skeleton = runner.bundle, runner.bundle.manifest, runner.bundle.skeleton
    with closing(runner.open()) as session:
        bundle.contract.refuse(session.inputs, session.outputs, remedy=bundle.manifest.remake)
        if HEATMAPS not in {spec.name for spec in session.outputs}:
            raise UsageError(
                f"the network of {bundle.path} has no output {HEATMAPS}, which eval needs: export it again"
            )

        def infer(crops: NDArray[np.uint8]) -> Outputs:
            return session.run({IMAGES: crops})

        where = (runner.backend, runner.precision)
        yield _Network(infer, manifest.model, *where, skeleton, manifest.input_size, manifest.crop_padding)


@contextmanager
def _open_checkpoint(target: Path, backend: str, precision: str) -> Iterator[_Network]:
    if backend not in ("auto", "torch"):
        raise UsageError(f"{target} is a checkpoint, which runs in PyTorch only: export it to run on {backend}")
    if precision not in ("auto", "fp32"):
        raise UsageError(f"{target} is a checkpoint, which runs in fp32 only: export it to run in {precision}")
    import torch

    from ..models.checkpoint import load_weights, read_spec
    from ..models.pose_graph import PoseGraph

    stored = read_spec(target)
    if stored is None:
        raise UsageError(f"{target} does not contain the name of its model: export it with that name to a bundle first")
    network = stored.build()
    load_weights(network, target)
    graph, skeleton = PoseGraph(network, with_maps=True).eval(), get_skeleton(stored.skeleton)

    def infer(crops: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            outputs = graph(torch.from_numpy(crops))
        return {name: output.numpy() for name, output in zip(graph.outputs, outputs, strict=True)}

    yield _Network(infer, stored.model, "torch", "fp32", skeleton, stored.input_size)
