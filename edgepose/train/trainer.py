"""The training loop: resumes where it stopped, writes nothing halfway."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..errors import UsageError
from ..files import atomic_path, write_text
from ..metrics import mean_pck
from ..skeletons import get_skeleton
from .accuracy import Predictor, evaluate_pck
from .checkpoint import ModelSpec, save_checkpoint
from .data import PoseSample, load_samples
from .data.loader import PoseDataset, make_loader
from .losses import ditn_loss
from .models.contract import normalise
from .recipes import Recipe


def torch_predictor(network: nn.Module) -> Predictor:
    """``network`` as a function of uint8 crops, in eval mode and on the device of its weights, in float32."""
    device = next(network.parameters()).device
    network.eval()

    def predictor(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(normalise(torch.from_numpy(crops).to(device))).float().cpu().numpy()

    return predictor


class Run:
    """One training run in one folder.

    ``last.pt`` holds everything a later call needs to go on, ``last.safetensors`` the weights, ``metrics.csv`` a line
    per epoch, ``recipe.json`` the set-up. No epoch is kept for being the best on the test split: that would be training
    on it.

    Args:
        recipe: the set-up; a folder that was begun with another one is refused.
        folder: of the run; made if missing.
        device: such as ``cpu`` or ``cuda``.
        steps: optimiser steps per epoch, which the schedule needs.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: str, steps: int) -> None:
        self.recipe, self.folder, self.device = recipe, folder, torch.device(device)
        self.spec = ModelSpec(recipe.model, recipe.skeleton, recipe.input_size)
        self.network = self.spec.build().to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=recipe.lr, total_steps=recipe.epochs * steps, pct_start=0.15
        )
        self.epoch = 0
        self._resume()

    def _resume(self) -> None:
        listing = self.folder / "recipe.json"
        if listing.exists() and listing.read_text() != self.recipe.to_json():
            raise UsageError(f"{self.folder} was begun with another recipe: give another -o, or remove the folder")
        write_text(listing, self.recipe.to_json())
        if not (self.folder / "last.pt").exists():
            return
        try:
            state = torch.load(self.folder / "last.pt", map_location=self.device, weights_only=True)
        except Exception as error:  # pickle and zip raise many types for a damaged file
            raise UsageError(f"{self.folder / 'last.pt'} is damaged: remove it to begin the run again") from error
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch = state["epoch"]

    @property
    def weights(self) -> Path:
        """The checkpoint after the last epoch that was finished."""
        return self.folder / "last.safetensors"

    def save(self) -> None:
        """Write ``last.safetensors``, then ``last.pt``: weights, optimiser, schedule, epoch."""
        save_checkpoint(self.weights, self.network, self.spec)
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
        }
        with atomic_path(self.folder / "last.pt") as temporary:
            torch.save(state, temporary)

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """One optimiser step on one batch; returns the loss."""
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        images = normalise(batch["crop"]).contiguous(memory_format=torch.channels_last)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            heads = self.network(images)
        recipe = self.recipe
        targets = batch["joints"], batch["weights"], batch["bones"]
        loss = ditn_loss(heads, *targets, gamma=recipe.gamma, bone_weight=recipe.bone_weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def log(self, row: dict[str, float]) -> None:
        """Append one line to ``metrics.csv``."""
        path = self.folder / "metrics.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)


def train(
    recipe: Recipe,
    data: str,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    eval_every: int = 2,
) -> Path:
    """Train a network, or go on with a run that was stopped.

    Args:
        recipe: the set-up.
        data: KIND:ROOT with a train and a test split.
        folder: of the run.
        device: such as ``cpu`` or ``cuda``.
        workers: processes that make batches.
        eval_every: epochs between evaluations on the test split (the last epoch is always evaluated).

    Returns:
        Path of the weights after the last epoch.

    Raises:
        UsageError: data cannot be read, the device cannot be used, or the folder belongs to another recipe.
    """
    _check_device(device)
    training, test = load_samples(data, "train"), load_samples(data, "test")
    loader, sampler = make_loader(PoseDataset(training, recipe), workers)
    run = Run(recipe, folder, device, len(loader))
    while run.epoch < recipe.epochs:
        sampler.epoch, start = run.epoch, time.perf_counter()
        loss = _train_epoch(run, loader)
        row = {"epoch": run.epoch, "loss": loss, "seconds": time.perf_counter() - start}
        evaluated = run.epoch % eval_every == 0 or run.epoch == recipe.epochs
        row["pck"] = _evaluate(run, test) if evaluated else float("nan")
        run.save()
        run.log(row)
    return run.weights


def _train_epoch(run: Run, loader: DataLoader) -> float:
    """One pass over the loader; returns the mean loss."""
    losses: list[float] = []
    with tqdm(loader, desc=f"epoch {run.epoch + 1}/{run.recipe.epochs}", unit="batch") as progress:
        for batch in progress:
            losses.append(run.step(batch))
            if not np.isfinite(losses[-1]):
                raise UsageError(f"the loss became {losses[-1]} in epoch {run.epoch + 1}: lower lr with --set lr=...")
            progress.set_postfix(loss=f"{np.mean(losses[-50:]):.5f}")
    run.epoch += 1
    return float(np.mean(losses))


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        raise UsageError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}; use cpu") from error


def _evaluate(run: Run, test: list[PoseSample]) -> float:
    skeleton = get_skeleton(run.recipe.skeleton)
    per_joint = evaluate_pck(torch_predictor(run.network), test, skeleton, run.recipe.input_size)
    score = mean_pck(per_joint)
    tqdm.write(f"epoch {run.epoch}: PCK@0.2 {score:.1f} %")
    return score
