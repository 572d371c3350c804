"""Let a stronger detector label the other people in pictures of which one person is labelled."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edgepose.core.files import sha256, write_text
from edgepose.core.images import read_image
from edgepose.detectors.kinds import detector_graph, open_detector
from tools.person_lite.scenes import Found

#: Boxes below this score are ignored.
THRESHOLD = 0.15


def find_people(teacher: Path, pictures: list[Path], cache: Path) -> Found:
    """Find people in pictures; a later call with the same detector and pictures reads the results from a file.

    Args:
        teacher: ONNX file, see :func:`edgepose.detectors.kinds.open_detector`.
        pictures: with different file names.
        cache: JSON file; written when it is missing or damaged, or was made by another detector or for other pictures.

    Raises:
        UsageError: the detector or a picture cannot be read.
    """
    with closing(open_detector(teacher, threshold=THRESHOLD)) as detector:
        key = {"teacher": sha256(detector_graph(teacher)), "pictures": [path.name for path in pictures]}
        found = _kept(cache, key)
        if found is None:
            found = {}
            for path in tqdm(pictures, desc="teacher", unit="picture"):
                people = detector(read_image(path))
                found[path.name] = np.column_stack([people.boxes, people.scores]).round(3).tolist()
            write_text(cache, json.dumps({"key": key, "found": found}))
    rows = {name: np.array(people, dtype=np.float64).reshape(-1, 5) for name, people in found.items()}
    return {name: (people[:, :4], people[:, 4]) for name, people in rows.items()}


def _kept(cache: Path, key: dict[str, Any]) -> dict[str, list[list[float]]] | None:
    """Return the boxes and scores by picture that the file holds for ``key``, or None."""
    try:
        kept = json.loads(cache.read_text(encoding="utf-8"))
        return kept["found"] if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
