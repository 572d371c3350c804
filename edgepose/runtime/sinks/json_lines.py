"""The sink for results as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.skeletons import Skeleton
from ..job import Job
from .text import TextFile, clipped_score, clipped_scores, rounded

#: Version of the keys. Within a version keys may be added, but none changes its name or meaning.
SCHEMA = 1


class JsonLinesSink:
    """A line with the skeleton, then one line with a JSON object per frame.

    The first line is ``{"schema": 1, "skeleton": ID, "joints": [NAME, ...], "bones": [[i, j], ...]}`` with the keys of
    ``header``. Each other line holds ``frame`` (index), ``camera``, ``name``, ``time`` in seconds and ``people``,
    objects with ``id`` (null without tracking), ``box`` (x1, y1, x2, y2), ``score`` and ``keypoints``
    ``[[x, y, score], ...]`` in the order of ``joints``. Coordinates are in source pixels, scores from 0 to 1. A frame
    that was not processed has ``dropped``, the reason.

    Args:
        path: the file, or ``-`` for standard output.
        skeleton: skeleton of the people.
        header: further keys of the first line, such as the bundle's name.
    """

    def __init__(self, path: Path, skeleton: Skeleton, header: Mapping[str, Any]) -> None:
        first = {
            "schema": SCHEMA,
            "skeleton": skeleton.name,
            "joints": skeleton.joints,
            "bones": skeleton.bones,
            **header,
        }
        self._file = TextFile(path, header=json.dumps(first) + "\n")

    def write(self, job: Job) -> None:
        """Add one line."""
        frame = job.frame
        people = [
            {
                "id": person.track_id,
                "box": rounded(person.box),
                "score": clipped_score(person.score),
                "keypoints": rounded(clipped_scores(person.keypoints)),
            }
            for person in job.people or ()
        ]
        line: dict[str, Any] = {"frame": frame.index, "camera": frame.camera, "name": frame.name}
        line |= {"time": round(frame.time, 6), "people": people}
        if job.dropped is not None:
            line["dropped"] = job.dropped
        self._file.append(json.dumps(line) + "\n")

    def close(self) -> None:
        """Rename the file."""
        self._file.close()
