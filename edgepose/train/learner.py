"""Update a network: loss, optimiser, schedule, average of the weights. This module reads and writes no run folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from ..core.errors import UsageError
from ..graphs.read_quantisation import Quantisation
from ..models.checkpoint import ModelSpec, load_pretrained
from ..models.layers import Heads
from ..models.pose_graph import normalise
from .accuracy import count_right, mean_accuracy
from .distributed import Ranks
from .fake_quantise import FakeQuantised
from .losses import LOSS_FUNCTIONS, DynamicWeights, Targets
from .recipes import Recipe

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """One network in training.

    Args:
        recipe: the set-up.
        steps: optimiser steps per epoch, which the schedule needs.
        ranks: this process among those that train together; all start from the first one's weights.
        weights: checkpoint to start from, which only the first process reads.
        quantisation: compute the loss as the INT8 graph would, with frozen batch norms; None trains as usual.

    Raises:
        UsageError: the model cannot be built, the weights cannot be read, the GPU lacks the recipe's precision, or the
            quantisation is of another network.
    """

    def __init__(
        self,
        recipe: Recipe,
        steps: int,
        ranks: Ranks,
        weights: Path | None = None,
        quantisation: Quantisation | None = None,
    ) -> None:
        self.recipe, self.ranks, self.quantisation = recipe, ranks, quantisation
        _require_precision(recipe.precision, ranks.device)
        self.spec = model_spec(recipe)
        self.network = self.spec.build()
        #: Which weights were loaded; None without ``weights``, and in the other processes.
        self.loaded = load_pretrained(self.network, weights) if weights and ranks.is_first else None
        self.network.to(ranks.device, memory_format=torch.channels_last)
        #: The module that computes the loss: the network, or its INT8 imitation, joined over the processes.
        self.parallel = self._quantised(self.network)
        if ranks.world > 1:
            self.parallel = DistributedDataParallel(self.parallel)
        self.average = copy.deepcopy(self.network) if recipe.ema else None
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        self.optimizer = optimizer(self.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = _schedule(recipe, self.optimizer, steps)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=recipe.precision == "fp16")
        self.balance = DynamicWeights()
        #: Of the last batch, over all processes: see :func:`~edgepose.train.accuracy.mean_accuracy`.
        self.accuracy = (0.0, 0)
        self._counts = torch.zeros(0)

    @property
    def result(self) -> nn.Module:
        """The network to keep: the averaged one if the recipe has an average."""
        return self.network if self.average is None else self.average

    @property
    def tested(self) -> nn.Module:
        """:attr:`result` as it will be used: with INT8 rounding if it is trained for that."""
        return self._quantised(self.result)

    def _quantised(self, network: nn.Module) -> nn.Module:
        return network if self.quantisation is None else FakeQuantised(network, self.quantisation)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the terms of the loss on one batch (see :class:`~edgepose.train.loader.PoseDataset`).

        Raises:
            UsageError: a batch norm would see a single value per channel.
        """
        batch = {name: tensor.to(self.ranks.device, non_blocking=True) for name, tensor in batch.items()}
        dtype = next(self.network.parameters()).dtype
        images = normalise(batch["crop"]).to(dtype).contiguous(memory_format=torch.channels_last)
        autocast = self.recipe.precision != "fp32"
        with torch.autocast(self.ranks.device.type, _PRECISIONS[self.recipe.precision], enabled=autocast):
            try:
                heads = self.parallel(images)
            except ValueError as error:
                _refuse_small_batch(error, len(images), self.recipe)
                raise
        heads = Heads(*(None if maps is None else maps.to(dtype) for maps in heads))
        targets = Targets(*(batch[name].to(dtype) for name in Targets._fields))
        self._counts = count_right(heads.joints.detach(), targets.joints)
        return LOSS_FUNCTIONS[self.recipe.loss](heads, targets, self.recipe)

    def backward(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Compute new gradients from one batch; returns the terms of the loss, averaged over the processes."""
        terms = self.losses(batch)
        weights = self.balance.of(tuple(terms)) if self.recipe.dynamic_weights else dict.fromkeys(terms, 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(sum(weights[name] * term for name, term in terms.items())).backward()
        self.accuracy = mean_accuracy(self.ranks.sum(self._counts))
        return self.ranks.mean({name: float(term.detach()) for name, term in terms.items()})

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Take one optimiser step on one batch; returns the terms of the loss before it."""
        terms = self.backward(batch)
        self.balance.record(terms)
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            follow(self.average, self.network, self.recipe.ema, self.schedule.last_epoch)
        return terms

    def is_finite(self) -> bool:
        """Return whether every weight is finite."""
        return all(bool(torch.isfinite(value).all()) for value in self.network.state_dict().values())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a later process needs to go on exactly."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        digest = self.quantisation and self.quantisation.digest
        return {**parts, "balance": self.balance.history, "quantisation": digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.balance.history = state["balance"]

    def _parts(self) -> dict[str, Any]:
        names = ("network", "average", "optimizer", "schedule", "scaler")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def largest_batch(self, batch: dict[str, Tensor]) -> int:
        """Find the largest half, quarter, ... of a batch that fits into the memory; 0 if one crop does not.

        Every try takes a step, so the learner must not be used afterwards.
        """
        count = len(batch["crop"]) // 2
        while count:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                self.step({name: tensor[:count] for name, tensor in batch.items()})
                return count
            except torch.OutOfMemoryError:
                count //= 2
            except UsageError:  # too few crops for a batch norm
                break
        return 0


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move an exponential moving average of weights and batch norm statistics towards the network's.

    PyTorch's ``AveragedModel`` would also average constant buffers and round integer ones.

    Args:
        average: a copy of the network, changed in place.
        network: after ``step`` optimiser steps.
        decay: share of the average that stays, in 0..1; at most (1 + step) / (10 + step), so that the random weights of
            the start are soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in floats], [value for _, value in floats], 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def model_spec(recipe: Recipe) -> ModelSpec:
    """Return the spec of the network that a recipe trains."""
    return ModelSpec(recipe.model, recipe.skeleton, recipe.input_size, recipe.model_options)


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    if recipe.schedule == "steps":
        return MultiStepLR(optimizer, [epoch * steps for epoch in recipe.milestone_epochs], gamma=0.1)
    return OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=recipe.epochs * steps, pct_start=0.15)


def _refuse_small_batch(error: ValueError, count: int, recipe: Recipe) -> None:
    """Raise UsageError if PyTorch refused to normalise one value per channel."""
    if "more than 1 value per channel" in str(error):
        raise UsageError(
            f"{recipe.model} cannot be trained at {recipe.height}x{recipe.width} with {count} crop per batch and "
            "process: a batch norm on a map of one pixel needs two or more (--set batch=..., with as many pictures)"
        ) from error


def _require_precision(precision: str, device: torch.device) -> None:
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError(f"{torch.cuda.get_device_name(device)} has no bf16: --set precision=fp16")
