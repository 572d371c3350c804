"""A stronger detector labels the pictures in which only one person is labelled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...files import sha256, write_text
from ...images import read_image
from ...runtime.detect import open_detector
from .scenes import Found

#: Boxes below this score say nothing.
THRESHOLD = 0.15


def find_people(teacher: Path, pictures: list[Path], cache: Path) -> Found:
    """What a detector finds in pictures, kept in a file: a later call with the same detector reads it.

    Args:
        teacher: ONNX file, see :func:`edgepose.runtime.detect.open_detector`.
        pictures: with different file names.
        cache: JSON file; written when it is missing, or was made by another detector or for other pictures.

    Raises:
        UsageError: the detector or a picture cannot be read.
    """
    key = {"teacher": sha256(teacher) if teacher.is_file() else "", "pictures": [path.name for path in pictures]}
    if cache.is_file() and (kept := json.loads(cache.read_text())).get("key") == key:
        return _arrays(kept["found"])
    detector = open_detector(teacher, threshold=THRESHOLD)
    try:
        found = {}
        for path in tqdm(pictures, desc="teacher", unit="picture"):
            people = detector(read_image(path))
            found[path.name] = np.column_stack([people.boxes, people.scores]).round(3).tolist()
    finally:
        detector.close()
    write_text(cache, json.dumps({"key": key, "found": found}))
    return _arrays(found)


def _arrays(found: dict[str, list[list[float]]]) -> Found:
    rows = {name: np.array(people, dtype=np.float64).reshape(-1, 5) for name, people in found.items()}
    return {name: (people[:, :4], people[:, 4]) for name, people in rows.items()}
