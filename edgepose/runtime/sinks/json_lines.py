"""Results as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.skeletons import Skeleton
from ..job import Job
from .text import TextFile, clipped_score, clipped_scores, rounded

#: Version of the lines' keys. Keys may be added to it; none changes its name or meaning.
SCHEMA = 1


class JsonLinesSink:
    """One line that names the skeleton, then one JSON object per frame and line.

    The first line is ``{"schema": 1, "skeleton": ID, "joints": [NAME, ...], "bones": [[i, j], ...]}`` and what
    ``header`` adds. Each other line holds ``frame`` (index), ``camera``, ``name``, ``time`` in seconds and ``people``,
    objects of ``id`` (null where nothing tracks), ``box`` (x1, y1, x2, y2), ``score`` and ``keypoints``
    ``[[x, y, score], ...]`` in the order of ``joints``. Coordinates are in source pixels, scores from 0 to 1. A line
    has ``dropped``, the reason, where something was left out of the frame's processing.

    Args:
        path: the file, or ``-`` for standard output.
        skeleton: of the people.
        header: more keys of the first line, such as the bundle's name.
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
        """Give the file its name."""
        self._file.close()
