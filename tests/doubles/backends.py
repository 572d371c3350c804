"""Backends that are, or are not, on this machine, whatever is installed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgepose.backends.backend import Backend
from edgepose.backends.tensorrt import EngineBackend


def set_unavailable(patch: pytest.MonkeyPatch, reason: Callable[[str], str | None]) -> None:
    """Let every backend give ``reason(name)``: why it cannot run here, or None."""
    for kind in (Backend, EngineBackend):
        patch.setattr(kind, "unavailable", lambda backend: reason(backend.name))


def no_gpu(name: str) -> str | None:
    """A machine without a GPU on which everything else is installed."""
    return "no GPU" if name.startswith("tensorrt") else None
