"""The training loop: resumes where it stopped, writes nothing halfway, says what went wrong."""

from __future__ import annotations

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..errors import UsageError
from ..skeletons import get_skeleton
from .accuracy import Predictor, score, scored_skeleton
from .checkpoint import load_pretrained
from .data import PoseData, describe_skipped, load_data
from .data.check import draw_check
from .data.loader import EpochSampler, PoseDataset, make_loader
from .distributed import Ranks, join
from .learner import Learner, check_device
from .models.contract import normalise
from .recipes import Recipe
from .run_folder import RunFolder

#: Seconds between saves inside an epoch.
_SAVE_EVERY = 600.0


def torch_predictor(network: nn.Module) -> Predictor:
    """``network`` as a function of uint8 crops, in eval mode and on the device of its weights, in float32."""
    device = next(network.parameters()).device
    network.eval()

    def predictor(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(normalise(torch.from_numpy(crops).to(device))).float().cpu().numpy()

    return predictor


def train(
    recipe: Recipe,
    data: str,
    folder: Path,
    *,
    weights: Path | None = None,
    device: str = "cpu",
    workers: int = 1,
    eval_every: int = 2,
) -> Path:
    """Train a network, or go on with a run that was stopped.

    Under ``torchrun`` the processes share every batch; the first one tests and writes. Ctrl-C stops after the step at
    hand, with everything saved; a second one stops at once.

    Args:
        recipe: the set-up.
        data: KIND:ROOT with a train and a val split.
        folder: of the run.
        weights: checkpoint that a new run starts from (see :func:`~edgepose.train.checkpoint.load_pretrained`).
        device: such as ``cpu`` or ``cuda``.
        workers: processes that make batches, for each training process.
        eval_every: epochs between evaluations on the val split (the last epoch is always evaluated).

    Returns:
        Path of the weights after the last epoch.

    Raises:
        UsageError: data cannot be read, the device cannot be used, the folder belongs to another run, the loss is no
            number, or memory or disk ran out.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    check_device(device, recipe.precision)
    training, validation = _load(recipe, data, "train"), _load(recipe, data, "val")
    scored_skeleton(validation, get_skeleton(recipe.skeleton))  # refuses now what could not be tested after an epoch
    with join(device) as ranks:
        if ranks.is_first:
            for notice in filter(None, map(describe_skipped, (training, validation))):
                tqdm.write(notice)
        loader, sampler = make_loader(
            PoseDataset(training.samples, recipe), workers, rank=ranks.rank, world=ranks.world
        )
        run = Run(recipe, folder, len(loader), ranks, weights)
        with _interrupts() as stop:
            while run.epoch < recipe.epochs:
                _train_epoch(run, loader, sampler, stop)
                tested = (run.epoch + 1) % eval_every == 0 or run.epoch + 1 == recipe.epochs
                run.finish_epoch(validation if tested else None)
                ranks.wait()
    return run.folder.last


class Run:
    """One training run: the learner, how far it is, and its folder.

    Args:
        recipe: the set-up.
        folder: of the run.
        steps: optimiser steps per epoch.
        ranks: this process among those that train together.
        weights: checkpoint that a new run starts from.
    """

    def __init__(self, recipe: Recipe, folder: Path, steps: int, ranks: Ranks, weights: Path | None = None) -> None:
        self.recipe, self.steps, self.ranks = recipe, steps, ranks
        self.learner = Learner(recipe, steps, ranks)
        self.epoch = self.batch = 0
        self.seconds, self.sums = 0.0, defaultdict[str, float](float)
        self.history: list[dict[str, float]] = []
        if ranks.is_first:
            RunFolder(folder, recipe)
        ranks.wait()
        self.folder = RunFolder(folder, recipe)
        state = self.folder.load(ranks.device)
        if state is not None:
            self._resume(state)
        elif weights is not None:
            report = load_pretrained(self.learner.network, weights)
            if ranks.is_first:
                tqdm.write(str(report))

    def _resume(self, state: dict[str, Any]) -> None:
        if state["steps"] != self.steps:
            raise UsageError(
                f"{self.folder.path} was begun with {state['steps']} batches per epoch, now there are {self.steps}: "
                "the data changed; give another -o, and --weights to start from this run's"
            )
        self.learner.load_state_dict(state["learner"])
        self.epoch, self.batch, self.history = state["epoch"], state["batch"], state["history"]
        self.seconds, self.sums = state["seconds"], defaultdict(float, state["sums"])

    def add(self, terms: dict[str, float], seconds: float) -> None:
        """Note one step."""
        self.batch += 1
        self.seconds += seconds
        for name, value in terms.items():
            self.sums[name] += value

    def finish_epoch(self, validation: PoseData | None) -> None:
        """Test on ``validation`` unless it is None, log, save."""
        means = {f"loss_{name}": total / self.batch for name, total in self.sums.items()}
        row = {"epoch": self.epoch + 1, "loss": sum(means.values()), **means, "seconds": self.seconds}
        row["lr"] = self.learner.schedule.get_last_lr()[0]
        self.epoch, self.batch, self.seconds, self.sums = self.epoch + 1, 0, 0.0, defaultdict(float)
        if not self.ranks.is_first:
            return
        before = [row["score"] for row in self.history if "score" in row]
        if validation is not None:
            row["score"] = self._test(validation)
        self.history.append(row)
        self.save(best="score" in row and row["score"] > max(before, default=float("-inf")))
        self.folder.log(self.history)

    def _test(self, validation: PoseData) -> float:
        recipe = self.recipe
        scores = score(
            torch_predictor(self.learner.result), validation, get_skeleton(recipe.skeleton), recipe.input_size
        )
        tqdm.write(f"epoch {self.epoch}: {scores.headline}")
        return scores.value

    def save(self, *, best: bool = False) -> None:
        """Write the state (in the first process)."""
        if not self.ranks.is_first:
            return
        state = {
            "learner": self.learner.state_dict(),
            "steps": self.steps,
            "epoch": self.epoch,
            "batch": self.batch,
            "history": self.history,
            "seconds": self.seconds,
            "sums": dict(self.sums),
        }
        self.folder.save(state, self.learner.result, self.learner.spec, best=best)


def check_samples(recipe: Recipe, data: str, picture: Path) -> None:
    """Draw augmented training samples with their targets into one picture.

    Raises:
        UsageError: the data cannot be read or do not fit the recipe.
    """
    draw_check(_load(recipe, data, "train"), recipe, picture)


def _load(recipe: Recipe, data: str, split: str) -> PoseData:
    loaded = load_data(data, split)
    if loaded.skeleton != recipe.skeleton:
        raise UsageError(
            f"{data} labels the joints of {loaded.skeleton}, the recipe trains {recipe.skeleton}: "
            f"--set skeleton={loaded.skeleton}, or other data"
        )
    return loaded


def _train_epoch(run: Run, loader: DataLoader, sampler: EpochSampler, stop: list[int]) -> None:
    """The rest of an epoch, from the batch at which the run is."""
    learner, saved = run.learner, time.perf_counter()
    sampler.epoch, sampler.start = run.epoch, run.batch
    learner.network.train()
    title = f"epoch {run.epoch + 1}/{run.recipe.epochs}"
    with tqdm(total=run.steps, initial=run.batch, desc=title, unit="batch", disable=not run.ranks.is_first) as progress:
        began = time.perf_counter()
        for batch in loader:
            indices = batch.pop("index")
            terms = _step(learner, batch)
            _require_number(terms, run, [str(loader.dataset.samples[i].image) for i in indices])
            now = time.perf_counter()
            run.add(terms, now - began)
            began = now
            progress.update()
            progress.set_postfix_str(_progress(run), refresh=False)
            interrupted = run.ranks.mean({"stop": float(bool(stop))})["stop"] > 0
            if interrupted or now - saved > _SAVE_EVERY:
                run.save()
                saved = now
            if interrupted:
                tqdm.write(f"stopped in {title} after batch {run.batch}: the same command goes on from here")
                raise KeyboardInterrupt


def _step(learner: Learner, batch: dict[str, Tensor]) -> dict[str, float]:
    try:
        return learner.step(batch)
    except torch.OutOfMemoryError as error:
        fits = 0 if learner.ranks.world > 1 else learner.largest_batch(batch)
        advice = f"batch={fits} fits" if fits else "give a smaller batch or smaller crops"
        raise UsageError(
            f"{learner.ranks.device} ran out of memory with {len(batch['crop'])} crops of {learner.recipe.height}x"
            f"{learner.recipe.width}: {advice} (--set batch=..., in another -o)"
        ) from error


def _require_number(terms: dict[str, float], run: Run, images: list[str]) -> None:
    if np.isfinite(sum(terms.values())):
        return
    found = ", ".join(f"{name} {value}" for name, value in terms.items())
    raise UsageError(
        f"the loss is no number ({found}) in epoch {run.epoch + 1}, batch {run.batch + 1} ({', '.join(images)}): look "
        f"at these images, lower lr, or clip the gradient (--set clip=1); {run.folder.path} keeps the state before"
    )


def _progress(run: Run) -> str:
    losses = " ".join(f"{name} {total / run.batch:.3g}" for name, total in run.sums.items())
    done = run.epoch * run.steps + run.batch
    left = (run.recipe.epochs * run.steps - done) * run.seconds / run.batch
    return f"{losses}, ends in {int(left // 3600)}:{int(left // 60 % 60):02}"


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that is not empty once Ctrl-C was pressed; pressed again, it interrupts as usual."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C goes to the main thread
        yield seen
        return

    def note(number: int, _: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
