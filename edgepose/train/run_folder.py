"""What a training run keeps on disk. Every file is whole at any moment; the last good state survives."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..core.errors import UsageError
from ..core.files import atomic_path, write_text
from ..models.checkpoint import ModelSpec, save_checkpoint
from .recipes import Recipe


class RunFolder:
    """The files of one run.

    ``last.pt`` holds everything a later call needs to go on, ``previous.pt`` the state before it; ``last.safetensors``
    and ``best.safetensors`` are weights; ``metrics.csv`` and ``tensorboard/`` have a line per epoch; ``recipe.json`` is
    the set-up. The state is written last: what it knows of is on the disk.

    Args:
        path: the folder, made by the first :meth:`save`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last, self.best = path / "last.safetensors", path / "best.safetensors"
        self._state, self._previous = path / "last.pt", path / "previous.pt"

    def load(self, recipe: Recipe, keys: Collection[str]) -> dict[str, Any] | None:
        """The state to go on from, on the CPU, or None for a new run.

        A damaged ``last.pt`` is renamed to ``last.damaged.pt``, and ``previous.pt`` taken.

        Args:
            recipe: must be the one that the run was begun with.
            keys: what a state holds.

        Raises:
            UsageError: the folder belongs to another recipe, or there are states and none can be read.
        """
        states = [path for path in (self._state, self._previous) if path.exists()]
        if not states:
            return None
        _require_same(self.path / "recipe.json", recipe)
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
        recipe: Recipe,
        state: dict[str, Any],
        network: nn.Module,
        spec: ModelSpec,
        history: list[dict[str, float]],
        *,
        best: bool = False,
    ) -> None:
        """Write weights and figures, then the state; what was the state before is kept as ``previous.pt``.

        Args:
            recipe: of the run.
            state: plain containers and tensors.
            network: the weights to keep.
            spec: of the network.
            history: a row of figures for every epoch.
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
        """All rows to ``metrics.csv``, the last one to TensorBoard."""
        names = list(dict.fromkeys(name for row in history for name in row))
        with atomic_path(self.path / "metrics.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=names)
            writer.writeheader()
            writer.writerows(history)
        from torch.utils.tensorboard import SummaryWriter

        row, epoch = history[-1], int(history[-1]["epoch"])
        with SummaryWriter(str(self.path / "tensorboard"), purge_step=epoch) as board:
            for name, value in row.items():
                if name != "epoch" and not math.isnan(value):
                    board.add_scalar(name, value, epoch)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # pickle and zip raise many types for a damaged file
        return None
    return state if isinstance(state, dict) else None


def _require_same(listing: Path, recipe: Recipe) -> None:
    try:
        begun = json.loads(listing.read_text())
    except (OSError, ValueError):
        begun = None
    if not isinstance(begun, dict):
        raise UsageError(f"{listing} is damaged or missing: give another -o to begin again")
    changes = list(_changes(begun, asdict(recipe)))
    if changes:
        raise UsageError(
            f"{listing.parent} was begun with another recipe ({', '.join(changes)}): give another -o, or the same "
            "values with --set"
        )


def _changes(begun: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in sorted(begun.keys() | now.keys()):
        if begun.get(name) != now.get(name):
            yield f"{name} was {begun.get(name)}, now {now.get(name)}"
