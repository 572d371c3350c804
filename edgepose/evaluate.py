"""Accuracy of a bundle or a checkpoint on labelled persons: ``edgepose eval``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .bundle import open_bundle
from .errors import UsageError
from .files import write_text
from .geometry import CROP_PADDING, Size, crop_regions, region_affine, transform_points, warp_crop
from .images import IMAGE_SUFFIXES, contact_sheet, read_image, write_image
from .machine import environment
from .runtime.backends import choose, open_session
from .runtime.pose import PoseEstimator
from .skeletons import Skeleton, get_skeleton
from .train.accuracy import Person, Predictor, Scores, score
from .train.data import PoseData, describe_skipped, detected_samples, load_data
from .verify.pictures import draw_pair

#: The picture of the worst crops: crops in a row, and the height of a line of text in pixels.
_COLUMNS, _LINE = 5, 34


@dataclass(frozen=True)
class Accuracy:
    """How well a network does on the test split of a data set.

    Attributes:
        target: the bundle or checkpoint.
        backend: what ran it.
        precision: what it computed in.
        data: KIND:ROOT.
        split: the labelled persons, and what of the data set could not be used.
        boxes: ``gt``, or the file of detected boxes.
        flip: whether each crop's mirror image was averaged in.
        decode: how keypoints were read from the heat-maps.
        input_size: (height, width) of the crops.
        crop_padding: factor from a box to its crop.
        scores: the figures, in percent.
    """

    target: str
    backend: str
    precision: str
    data: str
    split: PoseData
    boxes: str
    flip: bool
    decode: str
    input_size: Size
    crop_padding: float
    scores: Scores

    def table(self) -> str:
        """The headline figure, how it was made, the other figures, and one line per joint."""
        scores = self.scores
        ways = [
            f"{len(scores.persons)} persons in {len(self.split.pictures)} pictures",
            f"{self.backend} {self.precision}",
            "labelled boxes" if self.boxes == "gt" else f"boxes of {self.boxes}",
            *(["flip test"] if self.flip else []),
            *(["dark decoding"] if self.decode == "dark" else []),
        ]
        lines = [scores.headline, ", ".join(ways)]
        lines += [f"  {name:<16}{_percent(value)}" for name, value in scores.figures.items()]
        lines += [f"{scores.per_joint_name}:"]
        lines += [f"  {name:<16}{_percent(value)}" for name, value in scores.per_joint.items()]
        skipped = describe_skipped(self.split)
        return "\n".join([*lines, skipped] if skipped else lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but the keypoints, as plain values."""
        scores = self.scores
        return {
            "target": self.target,
            "backend": self.backend,
            "precision": self.precision,
            "data": self.data,
            "annotations": str(self.split.annotations),
            "settings": {
                "boxes": self.boxes,
                "flip": self.flip,
                "decode": self.decode,
                "input_size": list(self.input_size),
                "crop_padding": self.crop_padding,
            },
            "metric": scores.name,
            "value": scores.value,
            "figures": scores.figures,
            "per_joint_is": scores.per_joint_name,
            "per_joint": scores.per_joint,
            "persons": len(scores.persons),
            "pictures": len(self.split.pictures),
            "results": len(scores.results),
            "skipped": self.split.skipped,
            "environment": environment(),
        }

    def save(self, path: Path) -> None:
        """Write :meth:`to_json`."""
        write_text(path, json.dumps(self.to_json(), indent=2) + "\n")

    def save_results(self, path: Path) -> None:
        """Write the keypoints of :attr:`Scores.results` as COCO results.

        On COCO, pycocotools computes the same figures from this file.
        """
        write_text(path, json.dumps(self.scores.results) + "\n")

    def draw_worst(self, path: Path, count: int = 25) -> None:
        """Draw the persons with the lowest scores into one picture: their crops, both skeletons, score and file."""
        worst = sorted(self.scores.persons, key=lambda person: person.score)[:count]
        tiles = [draw_person(person, self.scores.skeleton, self.input_size, self.crop_padding) for person in worst]
        sheet = contact_sheet(tiles, _COLUMNS)
        write_image(path, np.concatenate([_line("labelled: blue, wide; found: orange, thin", sheet.shape[1]), sheet]))


def _percent(value: float | None) -> str:
    return "not labelled" if value is None else f"{value:6.1f} %"


def draw_person(person: Person, skeleton: Skeleton, size: Size, padding: float) -> NDArray[np.uint8]:
    """The crop of a person, enlarged, with both skeletons, and a caption with score and picture under it."""
    matrix = region_affine(crop_regions(person.sample.box, size, padding)[0], size)
    labelled = np.column_stack([person.sample.joints, person.sample.visible])
    pair = [
        np.column_stack([transform_points(points[:, :2], matrix), points[:, 2]])
        for points in (labelled, person.keypoints)
    ]
    crop = draw_pair(warp_crop(read_image(person.sample.image), matrix, size), pair[0], pair[1], skeleton)
    return np.concatenate([crop, _line(f"{person.score:.0f} %  {person.sample.image.name}", crop.shape[1])])


def _line(text: str, width: int) -> NDArray[np.uint8]:
    """Black text on white."""
    line = np.full((_LINE, width, 3), 255, dtype=np.uint8)
    cv2.putText(line, text, (6, _LINE - 11), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return line


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
        data: KIND:ROOT, see :func:`edgepose.train.data.load_data`.
        boxes: ``gt`` for the labelled boxes, or a JSON file with a detector's results in COCO's format.
        flip: average with the mirrored crops (the papers' protocol).
        decode: ``quarter`` or ``dark``, see :func:`edgepose.train.accuracy.score`.
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
    if worst and worst.suffix.lower() not in IMAGE_SUFFIXES:
        raise UsageError(f"cannot write picture {worst}: its name must end in one of {', '.join(IMAGE_SUFFIXES)}")
    for path in filter(None, (worst, *others)):
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder, expected the name of a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        try:
            TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error


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
    from .train.checkpoint import load_weights, read_spec
    from .train.trainer import torch_predictor

    stored = read_spec(target)
    if stored is None:
        raise UsageError(f"{target} does not say which model it is of: export it to a bundle first, naming the model")
    network = stored.build()
    load_weights(network, target)
    return _Network(torch_predictor(network), "torch", "fp32", stored.skeleton, stored.input_size)
