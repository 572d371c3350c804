"""Train the detector; a run that was stopped goes on from its last save."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from edgepose.core.errors import UsageError
from edgepose.models.pose_graph import normalise
from edgepose.train.learner import follow
from edgepose.train.run_folder import RunFolder
from tools.person_lite.loader import SceneDataset, make_loader
from tools.person_lite.losses import detector_loss
from tools.person_lite.network import PersonLite
from tools.person_lite.recipe import DetectorRecipe
from tools.person_lite.scenes import Scene

#: Steps between two saves and two lines of ``metrics.csv``.
SAVE_EVERY = 250


class Run:
    """One training run in one folder; see :class:`~edgepose.train.run_folder.RunFolder` for its files.

    Args:
        recipe: a folder that was begun with another one is refused, unless they differ in ``steps`` alone: until the
            learning rate falls, ``steps`` changes nothing.
        folder: made by the first save.
        device: such as ``cpu`` or ``cuda``.
    """

    _PARTS = ("network", "average", "optimizer", "schedule")

    def __init__(self, recipe: DetectorRecipe, folder: Path, device: str) -> None:
        self.recipe, self.folder, self.device = recipe, RunFolder(folder), torch.device(device)
        torch.manual_seed(recipe.seed)
        self.network = PersonLite().to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = LambdaLR(self.optimizer, recipe.lr_factor)
        self.step_count, self.history = 0, list[dict[str, float]]()
        state = self.folder.load(recipe, (*self._PARTS, "step", "history"), may_change=("steps",))
        if state is not None:
            for part in self._PARTS:
                getattr(self, part).load_state_dict(state[part])
            self.step_count, self.history = state["step"], state["history"]

    def save(self, loss: float) -> None:
        """Write the averaged weights, the state, and the figures with a new row: the mean loss since the last one."""
        self.history.append({"step": self.step_count, "loss": round(loss, 5)})
        state = {part: getattr(self, part).state_dict() for part in self._PARTS}
        state = {**state, "step": self.step_count, "history": self.history}
        self.folder.save(self.recipe, state, self.average, None, self.history)

    def step(self, batch: dict[str, Tensor]) -> float:
        """Take one optimiser step; returns the loss before it."""
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
        self.step_count += 1
        follow(self.average, self.network, self.recipe.average, self.step_count)
        return float(loss.detach())


def train(
    groups: list[list[Scene]], recipe: DetectorRecipe, folder: Path, *, device: str = "cpu", workers: int = 1
) -> Path:
    """Train the detector, or go on with a run that was stopped.

    Args:
        groups: LSP's scenes and COCO's.
        recipe: of the run.
        folder: of the run.
        device: such as ``cpu`` or ``cuda``.
        workers: processes that make batches.

    Returns:
        Path of the averaged weights after the last step.

    Raises:
        UsageError: the folder belongs to another recipe, or the loss became NaN or infinite.
    """
    run = Run(recipe, folder, device)
    loader = make_loader(SceneDataset(groups, recipe), run.step_count, workers)
    losses: list[float] = []
    with tqdm(loader, initial=run.step_count, total=recipe.steps, unit="step") as progress:
        for batch in progress:
            losses.append(run.step(batch))
            if not np.isfinite(losses[-1]):
                raise UsageError(f"the loss became {losses[-1]} at step {run.step_count}: lower --lr")
            progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
            if run.step_count % SAVE_EVERY == 0 or run.step_count == recipe.steps:
                run.save(float(np.mean(losses)))
                losses.clear()
    return run.folder.last
