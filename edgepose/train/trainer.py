"""Train a network; a run that was stopped goes on where it was, and no file is half-written."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..accuracy.scoring import score, scored_skeleton
from ..core.errors import UsageError
from ..core.files import check_writable
from ..core.images import check_image_name
from ..core.skeletons import get_skeleton
from ..data import load_data
from ..data.samples import PoseData, PoseSample, describe_skipped
from ..graphs.read_quantisation import Quantisation
from ..models.checkpoint import ModelSpec, read_spec, require_checkpoint
from ..models.pose_graph import torch_predictor
from .distributed import Ranks, join
from .learner import Learner, model_spec
from .loader import EpochSampler, PoseDataset, make_loader
from .preview import draw_check
from .recipes import Recipe
from .run_folder import RunFolder

#: Seconds between saves inside an epoch.
_SAVE_EVERY = 600.0


def train(
    recipe: Recipe,
    data: str,
    folder: Path,
    *,
    weights: Path | None = None,
    quantisation: Quantisation | None = None,
    device: str = "cpu",
    workers: int = 1,
    eval_every: int = 2,
) -> Path:
    """Train a network, or go on with a run that was stopped.

    Under ``torchrun`` the processes share every batch; the first one tests, and reads and writes the run's folder.
    Ctrl-C saves and stops after the current step; a second one stops at once.

    Args:
        recipe, folder: the set-up and the folder of the run.
        data: KIND:ROOT with a train and a val split.
        weights: checkpoint that a new run starts from (see :func:`~edgepose.models.checkpoint.load_pretrained`).
        quantisation: fine-tune the weights for INT8 (see :class:`~edgepose.train.fake_quantise.FakeQuantised`); scores
            are then those of INT8. The weights stay float32 ones, to be exported and calibrated as usual.
        device: such as ``cpu`` or ``cuda``.
        workers: processes that make batches, per training process.
        eval_every: epochs between evaluations on the val split (the last epoch is always evaluated).

    Returns:
        Path of the weights after the last epoch.

    Raises:
        UsageError: the data or weights cannot be read, the device cannot be used, the folder cannot be written to or
            belongs to another run, the loss became NaN or infinite, or memory or disk ran out.
        KeyboardInterrupt: after Ctrl-C, with the run saved.
    """
    with join(device) as ranks:
        if ranks.is_first:  # refuse before anything takes time
            RunFolder(folder).require_writable()
            if weights is not None and RunFolder(folder).is_new:
                require_checkpoint(weights)
        training, validation = _load(recipe, data, "train", ranks), _load(recipe, data, "val", ranks)
        scored_skeleton(validation, get_skeleton(recipe.skeleton))  # refuse now rather than at the first test
        dataset = PoseDataset(training.samples, recipe)
        loader, sampler = make_loader(dataset, workers, rank=ranks.rank, world=ranks.world)
        run = Run(recipe, folder, training.samples, len(loader), ranks, weights, quantisation)
        with _interrupts() as stop:
            while True:
                if ranks.is_first and run.is_test_due(eval_every):
                    run.test(validation)
                ranks.wait()
                if run.epoch == recipe.epochs:
                    return run.folder.last
                _train_epoch(run, loader, sampler, stop)
                run.finish_epoch()


class Run:
    """One training run: the learner, its progress, and its folder.

    Args:
        recipe, folder, weights, quantisation: see :func:`train`.
        samples: the training samples.
        steps: optimiser steps per epoch.
        ranks: this process among those that train together.

    Attributes:
        epoch: finished epochs.
        batch: steps done in the current epoch.
        history: a row of figures per finished epoch.
        seconds, sums: of the current epoch: the time of its steps, and the sum of each term of the loss over them.
        accuracy: of the current epoch: the sum over its steps of accuracy x joints, and of joints (see
            :func:`~edgepose.train.accuracy.mean_accuracy`).
    """

    _PROGRESS = ("epoch", "batch", "history", "seconds", "sums")

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        samples: list[PoseSample],
        steps: int,
        ranks: Ranks,
        weights: Path | None = None,
        quantisation: Quantisation | None = None,
    ) -> None:
        self.recipe, self.steps, self.ranks = recipe, steps, ranks
        self.folder, self.data = RunFolder(folder), _fingerprint(samples)
        self.epoch = self.batch = 0
        self.seconds, self.sums = 0.0, dict[str, float]()
        self.accuracy = [0.0, 0.0]
        self.history: list[dict[str, float]] = []
        keys = ("learner", "data", *self._PROGRESS)
        state = ranks.share(self.folder.load(recipe, keys) if ranks.is_first else None)
        if state is None and quantisation is not None and weights is None:
            raise UsageError("--quantise fine-tunes weights that are trained already: give their file with --weights")
        self.learner = Learner(recipe, steps, ranks, weights if state is None else None, quantisation)
        if state is not None:
            self._resume(state)
        elif self.learner.loaded is not None:
            tqdm.write(f"{weights}: {self.learner.loaded}{_other_options(weights, self.learner.spec)}")

    def _resume(self, state: dict[str, Any]) -> None:
        if state["data"] != self.data:
            raise UsageError(
                f"{self.folder.path} was begun with other training samples: give another -o, and --weights to start "
                "from this run's"
            )
        # States of older versions have no entries for the quantisation and the accuracy.
        _require_quantisation(state["learner"].get("quantisation"), self.learner.quantisation, self.folder.path)
        self.learner.load_state_dict(state["learner"])
        for name in self._PROGRESS:
            setattr(self, name, state[name])
        self.accuracy = state.get("accuracy", self.accuracy)

    def add(self, terms: dict[str, float], seconds: float) -> None:
        """Add the figures of one step; ``seconds`` is what it took."""
        self.batch += 1
        self.seconds += seconds
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        accuracy, joints = self.learner.accuracy
        self.accuracy = [self.accuracy[0] + accuracy * joints, self.accuracy[1] + joints]

    @property
    def percent_right(self) -> float:
        """The accuracy on the batches of the current epoch so far, in percent, as HRNet prints it."""
        return 100 * self.accuracy[0] / max(self.accuracy[1], 1)

    def finish_epoch(self) -> None:
        """Add the epoch's figures to the history and save."""
        means = {f"loss_{name}": total / self.batch for name, total in self.sums.items()}
        figures = {"loss": sum(means.values()), **means, "accuracy": self.percent_right}
        figures["lr"] = self.learner.schedule.get_last_lr()[0]
        self.history.append({"epoch": self.epoch + 1, **figures, "seconds": self.seconds})
        self.epoch, self.batch, self.seconds, self.sums, self.accuracy = self.epoch + 1, 0, 0.0, {}, [0.0, 0.0]
        self.save()

    def is_test_due(self, every: int) -> bool:
        """Return whether a test is due and not done: after each ``every``-th epoch and the last one."""
        due = self.batch == 0 and (self.epoch % every == 0 or self.epoch == self.recipe.epochs)
        return due and self.epoch > 0 and "score" not in self.history[-1]

    def test(self, validation: PoseData) -> None:
        """Test the network, add the score to the history, and save; the best weights also as such."""
        recipe, before = self.recipe, [row["score"] for row in self.history if "score" in row]
        predictor = torch_predictor(self.learner.tested)
        scores = score(predictor, validation, get_skeleton(recipe.skeleton), recipe.input_size)
        tqdm.write(f"epoch {self.epoch}: {scores.headline}")
        self.history[-1]["score"] = scores.value
        self.save(best=scores.value > max(before, default=float("-inf")))

    def save(self, *, best: bool = False) -> None:
        """Write weights, figures and state; only the first process does.

        Raises:
            UsageError: a weight is NaN or infinite, or a file cannot be written; the state before is still there.
        """
        if not self.ranks.is_first:
            return
        if not self.learner.is_finite():
            raise UsageError(
                f"the weights became infinite or NaN in epoch {self.epoch + (self.batch > 0)}: lower lr, or clip the "
                f"gradient (--set clip=1); {self.folder.path} keeps the state before"
            )
        progress = {name: getattr(self, name) for name in (*self._PROGRESS, "accuracy")}
        state = {"learner": self.learner.state_dict(), "data": self.data, **progress}
        self.folder.save(self.recipe, state, self.learner.result, self.learner.spec, self.history, best=best)


def check_samples(recipe: Recipe, data: str, picture: Path) -> None:
    """Draw augmented training samples with their targets into one picture.

    Raises:
        UsageError: the data cannot be read or do not fit the recipe, the network cannot take its crops, or the picture
            cannot be written.
    """
    check_writable(picture)
    check_image_name(picture)
    with torch.device("meta"):
        model_spec(recipe).build()
    draw_check(_load(recipe, data, "train", Ranks(0, 1, torch.device("cpu"))), recipe, picture)


def _load(recipe: Recipe, data: str, split: str, ranks: Ranks) -> PoseData:
    loaded = load_data(data, split)
    if loaded.skeleton != recipe.skeleton:
        raise UsageError(
            f"{data} labels the joints of {loaded.skeleton}, the recipe trains {recipe.skeleton}: "
            f"--set skeleton={loaded.skeleton}, or other data"
        )
    notice = describe_skipped(loaded)
    if notice and ranks.is_first:
        tqdm.write(f"{split}: {notice}")
    return loaded


def _other_options(weights: Path | None, spec: ModelSpec) -> str:
    """Return a warning if the weights are of the same network with other options, which may fit and mean another."""
    known = read_spec(weights) if weights else None
    if known is None or known.model != spec.model or known.options == spec.options:
        return ""
    theirs, ours = (" ".join(f"{k}={v}" for k, v in s.options.items()) or "no options" for s in (known, spec))
    return f"; they were trained with {theirs}, this run has {ours} (--set options=...)"


def _require_quantisation(begun: str | None, now: Quantisation | None, folder: Path) -> None:
    """Refuse to go on with a run in another arithmetic; ``begun`` is the digest of the run's quantisation."""
    if begun == (now and now.digest):
        return
    if begun is None:
        raise UsageError(f"{folder} was begun without --quantise: leave it out, or give another -o")
    how = "with --quantise BUNDLE" if now is None else "with another calibration"
    raise UsageError(f"{folder} was begun {how}: give the bundle that it was begun with, or another -o")


def _fingerprint(samples: list[PoseSample]) -> str:
    """Return a hash of the samples: names of pictures, joints and boxes, in their order."""
    content = hashlib.sha256()
    for sample in samples:
        content.update(sample.image.name.encode())
        for values in (sample.joints, sample.visible, sample.box):
            content.update(np.ascontiguousarray(values).tobytes())
    return content.hexdigest()


def _train_epoch(run: Run, loader: DataLoader, sampler: EpochSampler, stop: list[int]) -> None:
    """Train the rest of an epoch, from the current batch on."""
    saved = time.perf_counter()
    sampler.epoch, sampler.start = run.epoch, run.batch
    run.learner.parallel.train()
    title = f"epoch {run.epoch + 1}/{run.recipe.epochs}"
    with tqdm(total=run.steps, initial=run.batch, desc=title, unit="batch", disable=not run.ranks.is_first) as progress:
        began = time.perf_counter()
        for batch in _begin(loader):
            _stop_if(stop, run)
            images = [str(loader.dataset.samples[i].image) for i in batch.pop("index")]
            terms = _step(run.learner, batch)
            _require_finite(terms, run, images)
            now = time.perf_counter()
            run.add(terms, now - began)
            began = now
            progress.update()
            progress.set_postfix_str(_progress(run), refresh=False)
            if now - saved > _SAVE_EVERY:
                run.save()
                saved = now


def _begin(loader: DataLoader) -> Iterator[dict[str, Tensor]]:
    """Start the loader's workers with Ctrl-C ignored, which would reach every process of a terminal."""
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGINT, handler)


def _stop_if(stop: list[int], run: Run) -> None:
    """Save and end the run if Ctrl-C was pressed in any process."""
    if run.ranks.mean({"stop": float(bool(stop))})["stop"] == 0:
        return
    run.save()
    if run.ranks.is_first:
        tqdm.write(f"stopped in epoch {run.epoch + 1}, after batch {run.batch}: the same command goes on from here")
    raise KeyboardInterrupt


def _step(learner: Learner, batch: dict[str, Tensor]) -> dict[str, float]:
    try:
        return learner.step(batch)
    except torch.OutOfMemoryError:
        pass  # go on outside, where the exception no longer holds the memory of its frames
    if learner.ranks.device.type == "cuda":
        torch.cuda.empty_cache()
    fits = 0 if learner.ranks.world > 1 else learner.largest_batch(batch)
    advice = f"batch={fits} fits" if fits else "give a smaller batch or smaller crops"
    raise UsageError(
        f"{learner.ranks.device} ran out of memory with {len(batch['crop'])} crops of {learner.recipe.height}x"
        f"{learner.recipe.width}: {advice} (--set batch=..., in another -o)"
    )


def _require_finite(terms: dict[str, float], run: Run, images: list[str]) -> None:
    if np.isfinite(sum(terms.values())):
        return
    found = ", ".join(f"{name} {value}" for name, value in terms.items())
    raise UsageError(
        f"the loss became NaN or infinite ({found}) in epoch {run.epoch + 1}, batch {run.batch + 1} "
        f"({', '.join(images)}): look at these images, lower lr, or clip the gradient (--set clip=1); "
        f"{run.folder.path} keeps the state before"
    )


def _progress(run: Run) -> str:
    losses = " ".join(f"{name} {total / run.batch:.3g}" for name, total in run.sums.items())
    done = run.epoch * run.steps + run.batch
    left = (run.recipe.epochs * run.steps - done) * run.seconds / run.batch
    return f"{losses}, accuracy {run.percent_right:.1f} %, ends in {int(left // 3600)}:{int(left // 60 % 60):02}"


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Yield a list that is filled when Ctrl-C is pressed; pressed again, it interrupts as usual."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C goes to the main thread
        yield seen
        return

    def note(number: int, _: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        tqdm.write("stopping after this step; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
