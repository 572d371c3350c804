"""Data sets: read into :class:`PoseSample`, augmented into batches."""

from __future__ import annotations

from pathlib import Path

from ...errors import UsageError
from .lsp import load_lsp
from .samples import PoseSample

__all__ = ["PoseSample", "load_samples"]


def load_samples(spec: str, split: str) -> list[PoseSample]:
    """Read the persons of ``KIND:ROOT``.

    Args:
        spec: such as ``lsp:/data/lspet``. Kinds: ``lsp``.
        split: ``train`` or ``test``.

    Raises:
        UsageError: the text is not KIND:ROOT, the kind is unknown, or files are missing or broken.
    """
    kinds = {"lsp": load_lsp}
    kind, _, root = spec.partition(":")
    if kind not in kinds or not root:
        raise UsageError(f"--data {spec!r}: expected KIND:ROOT with KIND one of {', '.join(kinds)}")
    return kinds[kind](Path(root), split)
