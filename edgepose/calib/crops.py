"""The crops to calibrate on: cut by the runtime's own detector and transform, from a folder or from a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.tasks import PERSONS, POSE
from ..core.codecs import silence_codecs, stderr_silenced
from ..core.errors import UsageError
from ..core.geometry import CROP_PADDING, Size, crop_boxes, invert_affine, transform_points
from ..core.images import IMAGE_SUFFIXES, letterbox, read_image
from ..detectors.detector import NetworkDetector
from ..detectors.kinds import open_detector
from ..runtime.track import RegionTracker

_T = TypeVar("_T")

#: Fewer crops say too little about the largest values that a network meets.
MIN_CROPS = 16
#: Crops that are taken unless another number is asked for; TensorRT's users calibrate on about 500 pictures.
DEFAULT_LIMIT = 512
#: Hexadecimal digits of a crop's hash: 128 bits.
_HASH_DIGITS = 32
#: Damaged pictures that a sentence names; it counts them all.
_NAMED = 5


@dataclass(frozen=True)
class CropSet:
    """Persons as the pose network sees them, or pictures as a detector does.

    The first of them are spread over the pictures as evenly as all are.

    Attributes:
        images: (N, h, w, 3) uint8 RGB.
        names: of the N persons: file name and number in the picture from 0, such as ``im00001.jpg:0``.
        skipped: file names of pictures that could not be read.
        empty: pictures in which nobody was found.
        labels: (N, J, 3) of labelled persons: x, y in crop pixels, and 1 where the joint is labelled, else 0.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    empty: int = 0
    labels: NDArray[np.float32] | None = None

    @property
    def hashes(self) -> tuple[str, ...]:
        """See :func:`crop_hashes`."""
        return crop_hashes(self.images)

    def __str__(self) -> str:
        """One line, such as ``512 crops; nobody in 3 pictures; 1 picture cannot be read: cut.jpg``."""
        parts = [f"{len(self.images)} crops"]
        if self.empty:
            parts.append(f"nobody in {_counted(self.empty, 'picture')}")
        if self.skipped:
            parts.append(_unreadable(self.skipped))
        return "; ".join(parts)


def crop_hashes(crops: NDArray[np.uint8]) -> tuple[str, ...]:
    """The first 32 hexadecimal digits of the sha256 of every crop's bytes, for crops (N, h, w, 3)."""
    return tuple(hashlib.sha256(crop.tobytes()).hexdigest()[:_HASH_DIGITS] for crop in crops)


def collect_crops(
    bundle: Bundle, images: Path | None, data: str | None, *, detector: str, limit: int = DEFAULT_LIMIT
) -> CropSet:
    """Cut what a bundle's network is calibrated on: crops of persons, or whole pictures for a detector.

    Args:
        bundle: an opened bundle.
        images: folder of pictures; None to take ``data``.
        data: KIND:ROOT of labelled persons; None to take ``images``.
        detector: finds the persons in ``images``, see :func:`crops_from_images`.
        limit: crops at most.

    Raises:
        UsageError: not exactly one of ``images`` and ``data`` is given, or as the functions that are called.
    """
    if (images is None) == (data is None):
        raise UsageError("calibrate needs pictures of persons: either --images DIR, or --data KIND:ROOT")
    return _COLLECT[bundle.task](bundle, images, data, detector, limit)


def _collect_persons(bundle: Bundle, images: Path | None, data: str | None, detector: str, limit: int) -> CropSet:
    manifest = bundle.manifest
    size, padding = manifest.input_size, manifest.crop_padding
    if images is None:
        return crops_from_data(str(data), size, limit=limit, padding=padding, skeleton=manifest.skeleton)
    return crops_from_images(images, detector, size, limit=limit, padding=padding)


def _collect_pictures(bundle: Bundle, images: Path | None, data: str | None, detector: str, limit: int) -> CropSet:  # noqa: ARG001
    if images is None:
        raise UsageError(f"{bundle.path} holds a detector, whose pictures are not cut: give --images DIR")
    return pictures_from_images(images, bundle.manifest.input_size, limit=limit)


_COLLECT = {POSE: _collect_persons, PERSONS: _collect_pictures}


def crops_from_images(
    folder: Path, detector: str, input_size: Size, *, limit: int = DEFAULT_LIMIT, padding: float = CROP_PADDING
) -> CropSet:
    """The persons that a detector finds in the pictures of a folder, its subfolders left out.

    Pictures are taken evenly spread over the sorted names, always the same ones, until there are enough persons. One
    picture is in memory at a time.

    Args:
        folder: of pictures.
        detector: a bundle, an ONNX file, ``person_lite``, or ``none``: each whole picture is one person, where the
            runtime looks at first without a detector.
        input_size: (height, width) of the crops.
        limit: crops at most.
        padding: factor from a person's box to the crop.

    Raises:
        UsageError: no such folder, no picture in it that can be read, nobody found in any, fewer persons than
            :data:`MIN_CROPS`, or a detector that cannot be opened.
        CheckError: the detector gave numbers that are not finite.
    """
    _check_limit(limit)
    paths = _pictures(folder)
    found = None if detector == "none" else open_detector(detector)
    try:
        cutter = _Cutter(input_size, padding, limit)
        for path in spread(paths):
            image = cutter.read(path)
            if image is not None:
                cutter.cut(image, path.name, _boxes(image, found))
            if cutter.full:
                break
    finally:
        if found is not None:
            found.close()
    if len(cutter.skipped) == len(paths):
        raise UsageError(f"none of the pictures in {folder} can be used: {_unreadable(cutter.skipped)}")
    return cutter.finish(
        str(folder),
        f"add pictures of persons{'' if found is None else ', or give --detector none if each shows one person'}",
    )


def pictures_from_images(folder: Path, input_size: Size, *, limit: int = DEFAULT_LIMIT) -> CropSet:
    """The pictures of a folder as a detector sees them, letterboxed; taken as by :func:`crops_from_images`.

    Args:
        folder: of pictures.
        input_size: (height, width) of the detector's input.
        limit: pictures at most.

    Raises:
        UsageError: no such folder, or fewer pictures in it that can be read than :data:`MIN_CROPS`.
    """
    _check_limit(limit)
    cutter = _Cutter(input_size, CROP_PADDING, limit, "picture")
    for path in spread(_pictures(folder)):
        image = cutter.read(path)
        if image is not None:
            cutter.add(letterbox(image, input_size), path.name)
        if cutter.full:
            break
    return cutter.finish(str(folder), "add pictures such as the camera will see")


def crops_from_data(
    spec: str,
    input_size: Size,
    *,
    limit: int = DEFAULT_LIMIT,
    padding: float = CROP_PADDING,
    skeleton: str | None = None,
) -> CropSet:
    """The labelled persons of the training split of a data set, evenly spread over it.

    The split that accuracy is measured on is never read. Works without torch.

    Args:
        spec: KIND:ROOT, see :func:`edgepose.data.load_data`.
        input_size: (height, width) of the crops.
        limit: crops at most.
        padding: factor from a person's box to the crop.
        skeleton: id of the one whose joints are wanted: labels of other joints are left out.

    Raises:
        UsageError: the data cannot be read, none of its pictures can, or it has fewer persons than :data:`MIN_CROPS`.
    """
    from ..data import load_data

    _check_limit(limit)
    try:
        data = load_data(spec, "train")
    except UsageError as error:
        raise UsageError(f"calibration reads the training split: {error}") from error
    cutter = _Cutter(input_size, padding, limit)
    number: dict[Path, int] = {}
    for sample in spread(data.samples):
        image = cutter.read(sample.image)
        if image is not None:
            person = number[sample.image] = number.get(sample.image, -1) + 1
            cutter.cut(image, sample.image.name, sample.box[None], first=person)
            if data.skeleton == skeleton:
                cutter.label(sample.joints, sample.visible)
        if cutter.full:
            break
    if not cutter.names:
        raise UsageError(f"none of the pictures of {spec} can be used: {_unreadable(cutter.skipped)}")
    return cutter.finish(spec, "give a data set with more labelled persons, or --images")


class _Cutter:
    """Collects crops up to a limit; notes the pictures that cannot be read."""

    def __init__(self, size: Size, padding: float, limit: int, noun: str = "person") -> None:
        silence_codecs()
        self._noun = noun
        self.names: list[str] = []
        self.skipped: list[str] = []
        self._size, self._padding, self._limit = size, padding, limit
        self._crops: list[NDArray[np.uint8]] = []
        self._back: list[NDArray[np.float64]] = []
        self._labels: list[NDArray[np.float64]] = []
        self._damaged: set[Path] = set()
        self._empty = 0

    @property
    def full(self) -> bool:
        return len(self.names) >= self._limit

    def read(self, path: Path) -> NDArray[np.uint8] | None:
        """The picture, or None for a damaged one, which is noted once."""
        if path in self._damaged:
            return None
        try:
            with stderr_silenced():
                return read_image(path)
        except UsageError:
            self._damaged.add(path)
            self.skipped.append(path.name)
            return None

    def cut(self, image: NDArray[np.uint8], name: str, boxes: NDArray[np.float64], first: int = 0) -> None:
        """Add the persons in boxes (N, 4); ``first`` is the number of the first of them in the picture."""
        crops, back = crop_boxes(image, boxes[: self._limit - len(self.names)], self._size, self._padding)
        self._crops.extend(crops)
        self._back.extend(back)
        self.names += [f"{name}:{first + i}" for i in range(len(crops))]
        self._empty += not len(boxes)

    def add(self, crop: NDArray[np.uint8], name: str) -> None:
        """Add a whole picture of the right size."""
        self._crops.append(crop)
        self.names.append(name)

    def label(self, joints: NDArray[np.float64], visible: NDArray[np.bool_]) -> None:
        """The joints (J, 2) in the picture, and which are labelled (J,), of the person that was cut last."""
        points = transform_points(joints, invert_affine(self._back[-1]))
        self._labels.append(np.column_stack([points, visible]))

    def finish(self, where: str, advice: str) -> CropSet:
        if len(self.names) < MIN_CROPS:
            got = _counted(len(self.names), self._noun) if self.names else f"no {self._noun}"
            damaged = f" ({_unreadable(self.skipped)})" if self.skipped else ""
            raise UsageError(f"found {got} in {where}{damaged}, expected at least {MIN_CROPS} {self._noun}s: {advice}")
        labels = np.stack(self._labels).astype(np.float32) if self._labels else None
        return CropSet(np.stack(self._crops), tuple(self.names), tuple(self.skipped), self._empty, labels)


def _boxes(image: NDArray[np.uint8], detector: NetworkDetector | None) -> NDArray[np.float64]:
    """(N, 4) xyxy: the persons found, the most certain first, or the whole picture without a detector."""
    return detector(image).boxes if detector else RegionTracker().boxes(image.shape[:2])


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise UsageError(f"calibration folder {folder} {kind}: expected a folder of pictures of persons")
    try:
        paths = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise UsageError(f"cannot read folder {folder}: {error.strerror}") from error
    if not paths:
        raise UsageError(f"{folder} holds no pictures: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return paths


def spread(items: Sequence[_T]) -> Iterator[_T]:
    """All items, in an order of which every beginning is spread evenly: their numbers with the bits reversed, sorted.

    >>> list(spread("abcdefgh"))
    ['a', 'e', 'c', 'g', 'b', 'f', 'd', 'h']
    """
    bits = max(len(items) - 1, 1).bit_length()
    for reverse in range(1 << bits):
        index = int(f"{reverse:0{bits}b}"[::-1], 2)
        if index < len(items):
            yield items[index]


def _check_limit(limit: int) -> None:
    if limit < MIN_CROPS:
        raise UsageError(f"{limit} crops are too few to calibrate on: expected at least {MIN_CROPS}")


def _unreadable(names: Sequence[str]) -> str:
    named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{_counted(len(names), 'picture')} cannot be read: {named}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
