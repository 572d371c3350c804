"""Collect the crops to calibrate on, with the runtime's own detector and transform, from a folder or a data set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.tasks import PERSONS, POSE
from ..core.codecs import silence_codecs
from ..core.errors import UsageError
from ..core.geometry import CROP_PADDING, Size, crop_boxes, invert_affine, transform_points
from ..core.images import IMAGE_SUFFIXES, letterbox, read_image
from ..data import load_data
from ..data.samples import first_five, require_size
from ..detectors.kinds import open_detector
from ..runtime.track import RegionTracker

_T = TypeVar("_T")

#: Fewer crops are not enough to estimate the largest values of a tensor.
MIN_CROPS = 16
#: Default of the number of crops; about 500 pictures are common with TensorRT.
DEFAULT_LIMIT = 512


@dataclass(frozen=True)
class CropSet:
    """Inputs of a network: crops of persons for a pose network, whole pictures for a detector.

    Any first part of them is spread over the folder or data set as evenly as all of them.

    Attributes:
        images: (N, h, w, 3) uint8 RGB.
        names: file names, of persons with their number in the picture from 0, such as ``im00001.jpg:0``.
        skipped: file names of pictures that could not be read.
        empty: number of pictures in which no person was found.
        labels: (N, J, 3) labels: x, y in crop pixels, and 1 if the joint is labelled, else 0; None without labels.
        noun: word for an image, ``crop`` or ``picture``.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    empty: int = 0
    labels: NDArray[np.float32] | None = None
    noun: str = "crop"

    def __str__(self) -> str:
        """Return one line, such as ``512 crops; no person in 3 pictures; 1 picture cannot be read: cut.jpg``."""
        parts = [f"{len(self.images)} {self.noun}s"]
        if self.empty:
            parts.append(f"no person in {_counted(self.empty, 'picture')}")
        if self.skipped:
            parts.append(_unreadable(self.skipped))
        return "; ".join(parts)


def crop_hashes(crops: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return the first 32 hexadecimal digits of the SHA-256 of each of the crops (N, h, w, 3)."""
    return tuple(hashlib.sha256(crop.tobytes()).hexdigest()[:32] for crop in crops)


def collect_crops(
    bundle: Bundle, images: Path | None, data: str | None, *, detector: str, limit: int = DEFAULT_LIMIT
) -> CropSet:
    """Collect the inputs to calibrate a bundle's network on: crops of persons, or pictures for a detector.

    They come from ``images``, a folder of pictures, or from ``data``, KIND:ROOT of labelled persons. ``detector`` and
    ``limit`` are those of :func:`crops_from_images`.

    Raises:
        UsageError: not exactly one of ``images`` and ``data`` is given, ``data`` is given for a detector, or too few
            crops are found, see :func:`crops_from_images` and :func:`crops_from_data`.
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
        raise UsageError(f"{bundle.path} holds a detector, which calibrates on whole pictures: give --images DIR")
    return pictures_from_images(images, bundle.manifest.input_size, limit=limit)


_COLLECT = {POSE: _collect_persons, PERSONS: _collect_pictures}


def crops_from_images(
    folder: Path, detector: str, input_size: Size, *, limit: int = DEFAULT_LIMIT, padding: float = CROP_PADDING
) -> CropSet:
    """Cut out the persons that a detector finds in the pictures of a folder, without its subfolders.

    Pictures are read until there are enough persons, in a fixed order that spreads evenly over the sorted names. One
    picture is in memory at a time.

    Args:
        folder: folder of pictures.
        detector: a bundle, an ONNX file, ``person_lite``, or ``none``: then each picture is one person, like the first
            frame of a run without a detector.
        input_size: (height, width) of the crops.
        limit: most crops to cut.
        padding: factor from a person's box to the crop.

    Raises:
        UsageError: the folder does not exist or has no picture that can be read, fewer than :data:`MIN_CROPS` persons
            are found, or the detector cannot be opened.
        CheckError: the detector returns NaN or infinity.
    """
    cutter = _Cutter(input_size, padding, limit)
    paths = _pictures(folder)
    with nullcontext() if detector == "none" else closing(open_detector(detector)) as found:
        for path, image in cutter.read(paths, Path):
            # Without a detector the whole picture is a person.
            boxes = found(image).boxes if found else RegionTracker().boxes(image.shape[:2])
            cutter.cut(image, path.name, boxes)
    if len(cutter.skipped) == len(paths):
        raise UsageError(f"none of the pictures in {folder} can be used: {_unreadable(cutter.skipped)}")
    advice = ", or give --detector none if each shows one person" if found else ""
    return cutter.finish(str(folder), f"add pictures of persons{advice}")


def pictures_from_images(folder: Path, input_size: Size, *, limit: int = DEFAULT_LIMIT) -> CropSet:
    """Letterbox the pictures of a folder for a detector; see :func:`crops_from_images` for order and errors."""
    cutter = _Cutter(input_size, CROP_PADDING, limit, "picture")
    for path, image in cutter.read(_pictures(folder), Path):
        cutter.crops.append(letterbox(image, input_size))
        cutter.names.append(path.name)
    return cutter.finish(str(folder), "add pictures like those of your camera")


def crops_from_data(
    spec: str,
    input_size: Size,
    *,
    limit: int = DEFAULT_LIMIT,
    padding: float = CROP_PADDING,
    skeleton: str | None = None,
) -> CropSet:
    """Cut out labelled persons, evenly spread over the training split of a data set, KIND:ROOT.

    The split that results are published on is never read. Labels of another skeleton than the network's, ``skeleton``,
    are left out. The other arguments are those of :func:`crops_from_images`.

    Raises:
        UsageError: the data or all of its pictures cannot be read, a picture has another size than its labels say, or
            there are fewer persons than :data:`MIN_CROPS`.
    """
    cutter = _Cutter(input_size, padding, limit)
    try:
        data = load_data(spec, "train")
    except UsageError as error:
        raise UsageError(f"calibration reads the training split: {error}") from error
    numbers = Counter[Path]()
    for sample, image in cutter.read(data.samples, lambda sample: sample.image):
        require_size(sample, image)
        cutter.cut(image, sample.image.name, sample.box[None], first=numbers[sample.image])
        numbers[sample.image] += 1
        if data.skeleton == skeleton:
            cutter.label(sample.joints, sample.visible)
    if not cutter.names:
        raise UsageError(f"none of the pictures of {spec} can be used: {_unreadable(cutter.skipped)}")
    return cutter.finish(spec, "give a data set with more labelled persons, or --images")


class _Cutter:
    """Collects crops up to a limit; notes the pictures that cannot be read."""

    def __init__(self, size: Size, padding: float, limit: int, noun: str = "person") -> None:
        if limit < MIN_CROPS:
            raise UsageError(f"{limit} images are too few to calibrate on: expected at least {MIN_CROPS}")
        silence_codecs()
        self._size, self._padding, self._limit, self._noun = size, padding, limit, noun
        self.crops: list[NDArray[np.uint8]] = []
        self.names: list[str] = []
        self.skipped: list[str] = []
        self._back: list[NDArray[np.float64]] = []
        self._labels: list[NDArray[np.float64]] = []
        self._empty = 0

    def read(self, items: Sequence[_T], path_of: Callable[[_T], Path]) -> Iterator[tuple[_T, NDArray[np.uint8]]]:
        """Yield items, evenly spread, with their pictures until there are enough crops; note damaged pictures once."""
        damaged = set[Path]()
        for item in spread(items):
            path = path_of(item)
            if len(self.names) >= self._limit:
                return
            if path in damaged:
                continue
            try:
                image = read_image(path)
            except UsageError:
                damaged.add(path)
                self.skipped.append(path.name)
            else:
                yield item, image

    def cut(self, image: NDArray[np.uint8], name: str, boxes: NDArray[np.float64], first: int = 0) -> None:
        """Add the persons in boxes (N, 4); ``first`` is the first one's number in the picture."""
        crops, back = crop_boxes(image, boxes[: self._limit - len(self.names)], self._size, self._padding)
        self.crops.extend(crops)
        self._back.extend(back)
        self.names += [f"{name}:{first + i}" for i in range(len(crops))]
        self._empty += not len(boxes)

    def label(self, joints: NDArray[np.float64], visible: NDArray[np.bool_]) -> None:
        """Add labels of the last person: joints (J, 2) in pixels of the picture, and which are labelled (J,)."""
        points = transform_points(joints, invert_affine(self._back[-1]))
        self._labels.append(np.column_stack([points, visible]))

    def finish(self, where: str, advice: str) -> CropSet:
        """Return the crops; raise UsageError with ``advice`` if there are fewer than :data:`MIN_CROPS`."""
        if len(self.names) < MIN_CROPS:
            got = _counted(len(self.names), self._noun) if self.names else f"no {self._noun}"
            damaged = f" ({_unreadable(self.skipped)})" if self.skipped else ""
            raise UsageError(f"found {got} in {where}{damaged}, expected at least {MIN_CROPS} {self._noun}s: {advice}")
        labels = np.stack(self._labels).astype(np.float32) if self._labels else None
        noun = "crop" if self._noun == "person" else "picture"
        return CropSet(np.stack(self.crops), tuple(self.names), tuple(self.skipped), self._empty, labels, noun)


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


def spread(items: Sequence[_T]) -> list[_T]:
    """Return all items, sorted by their bit-reversed indices: any first part of them is spread evenly over all.

    >>> spread("abcdefgh")
    ['a', 'e', 'c', 'g', 'b', 'f', 'd', 'h']
    """
    bits = max(len(items) - 1, 1).bit_length()
    return [items[i] for i in sorted(range(len(items)), key=lambda i: f"{i:0{bits}b}"[::-1])]


def _unreadable(names: Sequence[str]) -> str:
    return f"{_counted(len(names), 'picture')} cannot be read: {first_five(names)}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
