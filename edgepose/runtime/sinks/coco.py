"""The sink for results in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...core.errors import UsageError
from ...core.skeletons import COCO17, Skeleton
from ..job import Job
from .text import TextFile, clipped_score, clipped_scores, rounded

_PERSON = 1  # COCO's category id


class CocoSink:
    """COCO keypoint results: a JSON list with one object per person, and scores from 0 to 1.

    ``image_id`` is the number in the file name, such as 139 for ``000000000139.jpg``, if the names of all inputs are
    different numbers; otherwise it is the index of the frame, for all of them.

    Args:
        path: the file, or ``-`` for standard output.
        inputs: the files of the source.
        skeleton: skeleton of the people.

    Raises:
        UsageError: the skeleton has other joints than COCO's, or the place cannot be written to.
    """

    def __init__(self, path: Path, inputs: Sequence[Path], skeleton: Skeleton) -> None:
        if skeleton.joints != COCO17.joints:
            raise UsageError(
                f"cannot write COCO results {path}: the network's skeleton is {skeleton.name} with "
                f"{len(skeleton.joints)} joints, expected the joints of {COCO17.name}: save JSON lines instead"
            )
        self._file = TextFile(path, header="[", footer="\n]\n")
        self._numbered = _numbered(inputs)
        self._separator = "\n"

    def write(self, job: Job) -> None:
        """Add the people of one frame."""
        stem = Path(job.frame.name).stem
        image_id = int(stem) if self._numbered and stem.isdecimal() else job.frame.index
        self._file.append("")  # a frame without people counts too
        for person in job.people or ():
            x1, y1, x2, y2 = person.box
            result = {
                "image_id": image_id,
                "category_id": _PERSON,
                "keypoints": rounded(clipped_scores(person.keypoints).ravel()),
                "score": clipped_score(person.score),
                "bbox": rounded(np.array([x1, y1, x2 - x1, y2 - y1])),
            }
            self._file.append(self._separator + json.dumps(result))
            self._separator = ",\n"

    def close(self) -> None:
        """Finish the list and rename the file."""
        self._file.close()


def _numbered(files: Sequence[Path]) -> bool:
    """Return whether the names of all files are different numbers, so that image ids are unique."""
    stems = [file.stem for file in files]
    return all(map(str.isdecimal, stems)) and len(set(map(int, stems))) == len(stems)
