"""What a training run keeps on disk. Every file is whole at any moment; the last good state survives."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..files import atomic_path, write_text
from .checkpoint import ModelSpec, save_checkpoint
from .recipes import Recipe


class RunFolder:
    """The files of one run.

    ``recipe.json`` is the set-up; ``last.pt`` holds everything a later call needs to go on, ``previous.pt`` the state
    before it; ``last.safetensors`` and ``best.safetensors`` are weights; ``metrics.csv`` and ``tensorboard/`` have a
    line per epoch.

    Args:
        path: the folder, made if missing.
        recipe: a folder that was begun with another one is refused.

    Raises:
        UsageError: the folder belongs to another recipe, or cannot be written.
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = path
        self.last, self.best = path / "last.safetensors", path / "best.safetensors"
        self._state, self._previous = path / "last.pt", path / "previous.pt"
        listing = path / "recipe.json"
        if listing.exists():
            _require_same(listing, recipe)
        else:
            write_text(listing, recipe.to_json())

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The state to go on from, or None for a new run; a damaged ``last.pt`` falls back to ``previous.pt``.

        Raises:
            UsageError: there are states, and none can be read.
        """
        damaged = []
        for path in (self._state, self._previous):
            if not path.exists():
                continue
            try:
                state = torch.load(path, map_location=device, weights_only=True)
            except Exception as error:  # pickle and zip raise many types for a damaged file
                damaged.append(
                    f"{path} is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
                )
            else:
                if damaged:
                    warnings.warn(f"{damaged[0]}: going on from {path.name}, the state before it", stacklevel=2)
                return state
        if damaged:
            raise UsageError(f"{'; '.join(damaged)}: remove the folder to begin the run again")
        return None

    def save(self, state: dict[str, Any], network: nn.Module, spec: ModelSpec, *, best: bool) -> None:
        """Write weights, then the state; what was the state before is kept as ``previous.pt``.

        Args:
            state: plain containers and tensors.
            network: the weights to keep.
            spec: of the network.
            best: keep the weights as ``best.safetensors``, too.

        Raises:
            UsageError: a file cannot be written; the files of the save before are still there.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic_path(self._state) as temporary:
            temporary.write_bytes(buffer.getbuffer())
            if self._state.exists():
                self._state.replace(self._previous)
        save_checkpoint(self.last, network, spec)
        if best:
            save_checkpoint(self.best, network, spec)

    def log(self, history: list[dict[str, float]]) -> None:
        """Write all epochs' lines to ``metrics.csv``, and the last one's to TensorBoard."""
        names = list(dict.fromkeys(name for row in history for name in row))
        with atomic_path(self.path / "metrics.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=names)
            writer.writeheader()
            writer.writerows(history)
        self._tensorboard(history[-1])

    def _tensorboard(self, row: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        epoch = int(row["epoch"])
        with SummaryWriter(str(self.path / "tensorboard"), purge_step=epoch) as writer:
            for name, value in row.items():
                if name != "epoch" and not math.isnan(value):
                    writer.add_scalar(name, value, epoch)


def _require_same(listing: Path, recipe: Recipe) -> None:
    try:
        begun = json.loads(listing.read_text())
    except ValueError as error:
        raise UsageError(f"{listing} is damaged: remove {listing.parent} to begin the run again") from error
    changes = list(_changes(begun, asdict(recipe)))
    if changes:
        raise UsageError(
            f"{listing.parent} was begun with another recipe ({', '.join(changes)}): give another -o, or remove the "
            "folder"
        )


def _changes(begun: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in sorted(begun.keys() | now.keys()):
        if begun.get(name) != now.get(name):
            yield f"{name} was {begun.get(name)}, now {now.get(name)}"
