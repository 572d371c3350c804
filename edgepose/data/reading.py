"""Helpers of all data set readers: they find and read files, and collect the persons that can be used."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import UsageError, missing_extra
from .samples import PoseData, describe_skipped, first_five

#: Errors that reading a field raises if it is missing or of the wrong type.
DAMAGED = (KeyError, TypeError, ValueError, OverflowError)
#: Joints (J, 2), their visibility (J,) and box xyxy of a person: the labels of a :class:`PoseSample`.
PersonLabels = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]


#: What to do about persons of whom none can be used, by the reason.
_ADVICE = {
    "smaller than a pixel": "are these fractions? Boxes and joints are in pixels of the picture",
    "no area": "leave the area out where it is not known",
    "area that does not fit the box": "areas are in square pixels of the picture; leave them out if they are not known",
    "box outside the picture": "boxes are [x, y, width, height] in pixels of the picture",
    "box far outside the picture": "boxes are [x, y, width, height] in pixels of the picture",
    "joints far from the box": "boxes are [x, y, width, height] and joints [x, y, v] in pixels of the picture",
}


class Intake:
    """Builds the :class:`PoseData` of a split, ``data``: finds pictures, and notes what cannot be used.

    Pictures are looked for in ``folders``, in this order; the other arguments are those of :class:`PoseData`.
    """

    def __init__(self, kind: str, skeleton: str, annotations: Path, folders: Sequence[Path]) -> None:
        self.data = PoseData(kind, skeleton, [], annotations)
        self._asked = folders
        self._folders = [folder for folder in folders if folder.is_dir()]
        self._missing: set[int] = set()
        self._named: dict[Path, str] = {}

    def picture(self, number: int, *names: str) -> Path | None:
        """Return the path of picture ``number``, the first of ``names`` that exists, or None, which is noted once.

        A name is looked for as it is, then without its first folder, and so on.

        Raises:
            UsageError: a picture of another name is the same file, because folders of both were left out.
        """
        pictures = self.data.pictures
        if number in self._missing or number in pictures:
            return pictures.get(number)
        places = (place for name in names for place in picture_places(name))
        for path in (folder / place for place in places for folder in self._folders):
            if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
                self._take(path, names[0])
                pictures[number] = path
                return path
        self._missing.add(number)
        self.skip("picture missing", names[0])
        return None

    def _take(self, path: Path, name: str) -> None:
        other = self._named.setdefault(path, name)
        if other != name and list(picture_places(other))[:1] != list(picture_places(name))[:1]:
            raise UsageError(
                f"{self.data.annotations} lists {other!r} and {name!r}, for which there is only one file, {path}: keep "
                "the folders of the pictures"
            )

    def skip(self, reason: str, name: str) -> None:
        """Note that ``name`` cannot be used, and why."""
        self.data.skipped.setdefault(reason, []).append(name)

    def finish(self, *, labelled: bool = True) -> PoseData:
        """Return the split; raise UsageError if it has no picture, or if ``labelled``, no person that can be used."""
        data, missing = self.data, self.data.skipped.get("picture missing", [])
        if missing and not data.pictures:
            places = f"{', '.join(map(str, self._asked))}, such as {first_five(missing)}"
            raise UsageError(
                f"none of the {len(missing)} pictures listed in {data.annotations} is in {places}: put them there "
                "(their folders may be left out)"
            )
        if labelled and not data.samples:
            advice = next(
                (a for reason, a in _ADVICE.items() if reason in data.skipped), f"give {data.kind}'s annotations"
            )
            why = f"{describe_skipped(data) or 'it lists none'}: {advice}"
            raise UsageError(f"{data.annotations} has no person that can be used with {data.skeleton}, {why}")
        return data


def picture_places(name: str) -> Iterator[str]:
    """Yield the paths under a folder at which a picture may be that a labelling tool calls ``name``.

    Backslashes separate folders, a drive, a host, a leading slash and ``..`` are left out, and so, one after the other,
    are the folders. What is written with percent signs, as in URLs, is also tried decoded.

    >>> list(picture_places("C:\\\\data\\\\my%20cat.jpg"))
    ['data/my%20cat.jpg', 'my%20cat.jpg', 'data/my cat.jpg', 'my cat.jpg']
    >>> list(picture_places("https://host/x/a.jpg?token=1"))
    ['x/a.jpg', 'a.jpg']
    """
    scheme, _, rest = name.partition("://")
    if rest:
        name = re.split("[?#]", rest)[0].partition("/")[2] if "/" not in scheme else name
    for text in dict.fromkeys((name, unquote(name))):
        parts = [part for part in re.split(r"[/\\]+", text) if part not in ("", ".", "..") and part[1:] != ":"]
        yield from ("/".join(parts[start:]) for start in range(len(parts)))


def find_annotations(candidates: Sequence[Path]) -> Path:
    """Return the first annotation file that exists; raise UsageError if none does."""
    for path in candidates:
        if path.is_file():
            return path
    there = sorted({file.name for path in candidates for file in path.parent.glob(f"*{path.suffix}")})
    found = f"found {first_five(there)}" if there else f"found no {candidates[0].suffix} file there"
    raise UsageError(f"{' or '.join(map(str, candidates))} is missing ({found}): check ROOT and its layout")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; raise UsageError if it cannot be read or is damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not readable JSON or was cut short ({error}): copy it again") from error


def read_list(path: Path, wanted: str, *keys: str) -> list[dict[str, Any]]:
    """Return the content of a JSON file; raise UsageError, naming what is ``wanted``, unless it :func:`has_objects`."""
    content = read_json(path)
    if not has_objects(content, *keys):
        raise refuse_kind(path, content, wanted)
    return list(content)


def read_mat(path: Path, name: str) -> np.ndarray:
    """Return the array ``name`` of a MATLAB file.

    Raises:
        UsageError: SciPy is not installed, or the file is damaged, lacks the array, or the array is not of numbers.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise missing_extra("scipy") from error
    try:
        array = loadmat(path, variable_names=[name])[name]
    except KeyError as error:
        raise UsageError(f"{path} has no array {name!r}: give the annotation file of the data set") from error
    except Exception as error:  # scipy raises many types for a damaged file
        raise UsageError(f"{path} is not a readable annotation file ({error}): copy it again") from error
    if not np.issubdtype(array.dtype, np.number):
        raise UsageError(f"{path}: {name!r} holds {array.dtype}, expected numbers")
    return np.asarray(array)


def has_objects(items: Any, *keys: str) -> bool:
    """Return whether ``items`` is a list of JSON objects, and empty or with all ``keys`` in one of them."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return False
    return not items or any(item.keys() >= set(keys) for item in items)


def plausible(*values: ArrayLike) -> bool:
    """Return whether all values can be pixel coordinates: finite, and of a magnitude below a million."""
    return all(bool((np.abs(np.asarray(value)) < 1e6).all()) for value in values)


def too_small(points: NDArray[np.float64], *sides: float) -> bool:
    """Return whether labelled joints (K, 2) all lie on the first pixel, or a side or area is below one pixel.

    So do labels in fractions of the picture's width and height.
    """
    return bool((np.abs(points) <= 1).all()) or any(side < 1 for side in sides)


def refuse_kind(path: Path, content: Any, wanted: str) -> UsageError:
    """Return the error for a JSON file of another kind than the one wanted, with a guess of what it holds."""
    listed = content.get("annotations") if isinstance(content, dict) else content
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    if isinstance(content, dict):
        known = {"keypoints": "COCO joints", "caption": "COCO captions", "bbox": "COCO boxes without joints"}
    else:
        known = {
            "joints": "MPII persons",
            "joint_self": "MPII persons in another layout",
            "keypoints": "found joints",  # these have scores, too
            "score": "detected boxes",
        }
    kind = next((what for key, what in known.items() if key in first), "another kind")
    return UsageError(f"{path} is a file of {kind}, expected {wanted}")
