"""The detector's training loop: resumes where it stopped, writes nothing halfway."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from edgepose.core.errors import UsageError
from edgepose.core.files import atomic_path, write_text
from edgepose.models.person_lite import PersonLite
from edgepose.models.pose_graph import normalise
from tools.person_lite.checkpoint import save_detector
from tools.person_lite.loader import SceneDataset, make_loader
from tools.person_lite.losses import detector_loss
from tools.person_lite.recipe import Setup
from tools.person_lite.scenes import Scene

#: Steps between two saves and two lines of ``metrics.csv``.
SAVE_EVERY = 250


class Run:
    """One training run in one folder.

    ``last.pt`` holds everything a later call needs to go on, ``last.safetensors`` the averaged weights,
    ``metrics.csv`` a line per :data:`SAVE_EVERY` steps, ``setup.json`` the set-up.

    Args:
        setup: a folder that was begun with another one is refused, unless they differ in ``steps`` alone.
        folder: made if missing.
        device: such as ``cpu`` or ``cuda``.
    """

    def __init__(self, setup: Setup, folder: Path, device: str) -> None:
        self.setup, self.folder, self.device = setup, folder, torch.device(device)
        torch.manual_seed(setup.seed)
        self.network = PersonLite().to(self.device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(setup.average), use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=setup.lr, weight_decay=setup.weight_decay)
        self.schedule = LambdaLR(self.optimizer, setup.lr_factor)
        self.step_count = 0
        self._resume()

    def _resume(self) -> None:
        listing = self.folder / "setup.json"
        if listing.exists() and not self.setup.same_run(listing.read_text()):
            raise UsageError(f"{self.folder} was begun with another set-up: give another -o, or remove the folder")
        write_text(listing, self.setup.to_json())
        if not (self.folder / "last.pt").exists():
            return
        try:
            state = torch.load(self.folder / "last.pt", map_location=self.device, weights_only=True)
        except Exception as error:  # pickle and zip raise many types for a damaged file
            raise UsageError(f"{self.folder / 'last.pt'} is damaged: remove it to begin the run again") from error
        for part in ("network", "average", "optimizer", "schedule"):
            getattr(self, part).load_state_dict(state[part])
        self.step_count = state["step"]

    @property
    def weights(self) -> Path:
        """The averaged weights at the last save."""
        return self.folder / "last.safetensors"

    def save(self, loss: float) -> None:
        """Write weights and state, and append to ``metrics.csv``."""
        save_detector(self.weights, self.average.module)
        parts = ("network", "average", "optimizer", "schedule")
        state: dict[str, Any] = {part: getattr(self, part).state_dict() for part in parts}
        with atomic_path(self.folder / "last.pt") as temporary:
            torch.save({**state, "step": self.step_count}, temporary)
        path = self.folder / "metrics.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            csv.writer(file).writerows([["step", "loss"]] * fresh + [[self.step_count, f"{loss:.5f}"]])

    def step(self, batch: dict[str, Tensor]) -> float:
        """One optimiser step; returns the loss before it."""
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        images = normalise(batch.pop("images")).contiguous(memory_format=torch.channels_last)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            predictions = self.network(images)
        loss = detector_loss(predictions, **batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        self.step_count += 1
        return float(loss.detach())


def train(groups: list[list[Scene]], setup: Setup, folder: Path, *, device: str = "cpu", workers: int = 1) -> Path:
    """Train the detector, or go on with a run that was stopped.

    Args:
        groups: LSP's scenes and COCO's.
        setup: the set-up.
        folder: of the run.
        device: such as ``cpu`` or ``cuda``.
        workers: processes that make batches.

    Returns:
        Path of the averaged weights after the last step.

    Raises:
        UsageError: the folder belongs to another set-up, or the loss is no longer a number.
    """
    run = Run(setup, folder, device)
    loader = make_loader(SceneDataset(groups, setup), run.step_count, workers)
    losses: list[float] = []
    with tqdm(loader, initial=run.step_count, total=setup.steps, unit="step") as progress:
        for batch in progress:
            losses.append(run.step(batch))
            if not np.isfinite(losses[-1]):
                raise UsageError(f"the loss became {losses[-1]} at step {run.step_count}: lower --lr")
            progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
            if run.step_count % SAVE_EVERY == 0 or run.step_count == setup.steps:
                run.save(float(np.mean(losses)))
                losses.clear()
    return run.weights
