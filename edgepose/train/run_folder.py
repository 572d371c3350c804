"""Keep a training run on disk. Every file is whole at any moment, and the last good state survives."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from ..core.errors import UsageError
from ..core.files import atomic_path, check_writable, write_text
from ..models.checkpoint import ModelSpec, save_checkpoint


class AnyRecipe(Protocol):
    """Everything that decides a training run."""

    def to_json(self) -> str:
        """Return its fields as a JSON object."""
        ...


class RunFolder:
    """The files of one run, in a folder that the first :meth:`save` makes.

    ``last.pt`` holds everything a later call needs to go on, ``previous.pt`` the state before it; ``last.safetensors``
    and ``best.safetensors`` are weights; ``metrics.csv`` and ``tensorboard/`` hold the figures of every epoch;
    ``recipe.json`` is the recipe. The state is written last, so everything it refers to is already on the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last, self.best = path / "last.safetensors", path / "best.safetensors"
        self._state, self._previous = path / "last.pt", path / "previous.pt"

    @property
    def is_new(self) -> bool:
        """True until a state was saved."""
        return not (self._state.exists() or self._previous.exists())

    def require_writable(self) -> None:
        """Raise UsageError if nothing can be written, before hours of training are lost; the folder is not made yet."""
        check_writable(self._state)

    def load(
        self, recipe: AnyRecipe, keys: Collection[str], *, may_change: Collection[str] = ()
    ) -> dict[str, Any] | None:
        """Return the state to go on from, on the CPU, or None for a new run.

        A damaged ``last.pt`` is renamed to ``last.damaged.pt``, and ``previous.pt`` is read instead.

        Args:
            recipe: must be the one that the run was begun with.
            keys: what a state must hold.
            may_change: fields of the recipe that may differ.

        Raises:
            UsageError: the folder belongs to another recipe, or there are states and none can be read.
        """
        states = [path for path in (self._state, self._previous) if path.exists()]
        if not states:
            return None
        _require_same(self.path / "recipe.json", recipe, may_change)
        damaged: list[Path] = []
        for path in states:
            state = _read(path)
            if state is not None and state.keys() >= set(keys):
                for other in damaged:  # it would take the place of the good one at the next save
                    other.rename(other.with_suffix(".damaged.pt"))
                    tqdm.write(f"{other} is damaged: going on from {path.name}, the state before it")
                return state
            damaged.append(path)
        names = " and ".join(path.name for path in damaged)
        raise UsageError(f"{self.path}: {names} cannot be read; give another -o to begin again")

    def save(
        self,
        recipe: AnyRecipe,
        state: dict[str, Any],
        network: nn.Module,
        spec: ModelSpec | None,
        history: list[dict[str, float]],
        *,
        best: bool = False,
    ) -> None:
        """Write weights and figures, then the state; the state before is kept as ``previous.pt``.

        Args:
            recipe: of the run.
            state: plain containers and tensors.
            network, spec: see :func:`~edgepose.models.checkpoint.save_checkpoint`.
            history: rows of figures by name; the first figure of each counts the epochs, or steps.
            best: keep the weights as ``best.safetensors``, too.

        Raises:
            UsageError: a file cannot be written; the state of the save before is still there.
        """
        write_text(self.path / "recipe.json", recipe.to_json())
        if best:
            save_checkpoint(self.best, network, spec)
        save_checkpoint(self.last, network, spec)
        if history:
            self._log(history)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic_path(self._state) as temporary:
            temporary.write_bytes(buffer.getbuffer())
            if self._state.exists():
                self._state.replace(self._previous)

    def _log(self, history: list[dict[str, float]]) -> None:
        """Write all rows to ``metrics.csv`` and the last one to TensorBoard."""
        names = list(dict.fromkeys(name for row in history for name in row))
        with atomic_path(self.path / "metrics.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=names)
            writer.writeheader()
            writer.writerows(history)
        from torch.utils.tensorboard import SummaryWriter

        (_, count), *figures = history[-1].items()
        with SummaryWriter(str(self.path / "tensorboard"), purge_step=int(count)) as board:
            for name, value in figures:
                if not math.isnan(value):
                    board.add_scalar(name, value, int(count))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # pickle and zip raise many types for a damaged file
        return None
    return state if isinstance(state, dict) else None


def _require_same(listing: Path, recipe: AnyRecipe, may_change: Collection[str]) -> None:
    try:
        begun = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        begun = None
    if not isinstance(begun, dict):
        raise UsageError(f"{listing} is damaged or missing: give another -o to begin again")
    now = json.loads(recipe.to_json())
    changes = [
        f"{name} was {begun.get(name)}, now {now.get(name)}"
        for name in sorted((begun.keys() | now.keys()) - set(may_change))
        if begun.get(name) != now.get(name)
    ]
    if changes:
        raise UsageError(
            f"{listing.parent} was begun with another recipe ({', '.join(changes)}): give another -o, or the values "
            "that it was begun with"
        )
