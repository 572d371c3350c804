"""The sinks for text: JSON lines and COCO results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...core.files import check_writable, open_text
from ...core.pose import Pose
from ...core.skeletons import COCO17, Skeleton
from ..job import Job

#: Version of the keys of JSON lines. Within a version keys may be added, but none changes its name or meaning.
SCHEMA = 1
_PERSON = 1  # COCO's category id


class _TextSink:
    """A text file that is renamed in ``close`` if something was appended; otherwise an older file stays.

    A device, a pipe or ``-`` for standard output gets each line at once; UsageError for a place that refuses them.
    """

    def __init__(self, path: Path, header: str, footer: str = "") -> None:
        check_writable(path)
        self._path, self._header, self._footer = path, header, footer
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def _append(self, text: str) -> None:
        """Add text; if writing fails, remove the temporary file and raise UsageError."""
        with self._stack.pop_all() as stack:
            if self._file is None:
                self._file = stack.enter_context(open_text(self._path))
                self._file.write(self._header)
            self._file.write(text)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Finish the file and rename it; raise UsageError if writing fails."""
        with self._stack.pop_all():
            if self._file is not None and not self._file.closed:
                self._file.write(self._footer)


class JsonLinesSink(_TextSink):
    """A line with the skeleton, then one line with a JSON object per frame.

    The first line is ``{"schema": 1, "skeleton": ID, "joints": [NAME, ...], "bones": [[i, j], ...]}`` with the keys of
    ``header``. Each other line holds ``frame`` (index), ``camera``, ``name``, ``time`` in seconds and ``people``,
    objects with ``id`` (null without tracking), ``box`` (x1, y1, x2, y2), ``score`` and ``keypoints``
    ``[[x, y, score], ...]`` in the order of ``joints``. Coordinates are in source pixels, scores from 0 to 1. A frame
    that was not processed has ``dropped``, the reason.
    """

    def __init__(self, path: Path, skeleton: Skeleton, header: Mapping[str, Any]) -> None:
        first = {"schema": SCHEMA, "skeleton": skeleton.name, "joints": skeleton.joints, "bones": skeleton.bones}
        super().__init__(path, json.dumps({**first, **header}) + "\n")

    def write(self, job: Job) -> None:
        """Add one line."""
        frame = job.frame
        people = [
            {
                "id": person.track_id,
                "box": _rounded(person.box),
                "score": _score(person),
                "keypoints": _keypoints(person),
            }
            for person in job.people or ()
        ]
        line: dict[str, Any] = {"frame": frame.index, "camera": frame.camera, "name": frame.name}
        line |= {"time": round(frame.time, 6), "people": people}
        if job.dropped is not None:
            line["dropped"] = job.dropped
        self._append(json.dumps(line) + "\n")


class CocoSink(_TextSink):
    """COCO keypoint results: a JSON list with one object per person, and scores from 0 to 1.

    ``image_id`` is the number in the file name, such as 139 for ``000000000139.jpg``, if the names of all inputs are
    different numbers; otherwise it is the index of the frame, for all of them.

    Raises:
        UsageError: the skeleton has other joints than COCO's, or the place cannot be written to.
    """

    def __init__(self, path: Path, inputs: Sequence[Path], skeleton: Skeleton) -> None:
        if skeleton.joints != COCO17.joints:
            raise UsageError(
                f"cannot write COCO results {path}: the network's skeleton is {skeleton.name} with "
                f"{len(skeleton.joints)} joints, expected the joints of {COCO17.name}: save JSON lines instead"
            )
        super().__init__(path, "[", "\n]\n")
        stems = [file.stem for file in inputs]
        self._numbered = all(map(str.isdecimal, stems)) and len(set(map(int, stems))) == len(stems)
        self._separator = "\n"

    def write(self, job: Job) -> None:
        """Add the people of one frame."""
        stem = Path(job.frame.name).stem
        image_id = int(stem) if self._numbered and stem.isdecimal() else job.frame.index
        self._append("")  # a frame without people counts too
        for person in job.people or ():
            x1, y1, x2, y2 = person.box
            result = {
                "image_id": image_id,
                "category_id": _PERSON,
                "keypoints": [value for joint in _keypoints(person) for value in joint],
                "score": _score(person),
                "bbox": _rounded(np.array([x1, y1, x2 - x1, y2 - y1])),
            }
            self._append(self._separator + json.dumps(result))
            self._separator = ",\n"


def _rounded(values: NDArray[np.float64]) -> list[Any]:
    """Return numbers as nested lists with three decimals: finer than any network, and half the size of the file."""
    return values.round(3).tolist()


def _keypoints(person: Pose) -> list[Any]:
    """Return (J, 3) rounded keypoints with scores clipped to 0..1: a heat-map's maximum may be above 1."""
    keypoints = person.keypoints.astype(np.float64)
    keypoints[:, 2] = keypoints[:, 2].clip(0.0, 1.0)
    return _rounded(keypoints)


def _score(person: Pose) -> float:
    """Return the score clipped to 0..1, with four decimals."""
    return round(min(max(person.score, 0.0), 1.0), 4)
