"""Annotated persons, the form into which every data set is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError


@dataclass(frozen=True)
class PoseSample:
    """One labelled person.

    Attributes:
        image: path of the image file.
        joints: (J, 2) float64 x, y in image pixels.
        visible: (J,) bool, True where labelled.
        box: (4,) float64 xyxy in image pixels.
    """

    image: Path
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    box: NDArray[np.float64]


def load_samples(spec: str, split: str) -> list[PoseSample]:
    """Read the persons of ``KIND:ROOT``.

    Args:
        spec: such as ``lsp:/data/lspet``. Kinds: ``lsp``.
        split: ``train`` or ``test``.

    Raises:
        UsageError: the text is not KIND:ROOT, the kind is unknown, or files are missing or broken.
    """
    from .lsp import load_lsp

    kinds = {"lsp": load_lsp}
    kind, _, root = spec.partition(":")
    if kind not in kinds or not root:
        raise UsageError(f"--data {spec!r}: expected KIND:ROOT with KIND one of {', '.join(kinds)}")
    return kinds[kind](Path(root), split)
