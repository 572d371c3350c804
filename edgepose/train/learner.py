"""A network and everything that changes it: loss, optimiser, schedule, averages. No files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import UsageError
from .checkpoint import ModelSpec
from .distributed import Ranks
from .losses import LOSS_FUNCTIONS, DynamicWeights, Targets
from .models import Heads
from .models.contract import normalise
from .recipes import Recipe

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """One network in training.

    Args:
        recipe: the set-up.
        steps: optimiser steps per epoch, which the schedule needs.
        ranks: this process among those that train together.
    """

    def __init__(self, recipe: Recipe, steps: int, ranks: Ranks) -> None:
        self.recipe, self.ranks = recipe, ranks
        self.spec = ModelSpec(recipe.model, recipe.skeleton, recipe.input_size, recipe.model_options)
        self.network = self.spec.build().to(ranks.device, memory_format=torch.channels_last)
        self.parallel = DistributedDataParallel(self.network) if ranks.world > 1 else self.network
        self.average = (
            AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
            if recipe.ema
            else None
        )
        self.optimizer = _optimizer(recipe, self.network)
        self.schedule = _schedule(recipe, self.optimizer, steps)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=recipe.precision == "fp16")
        self.balance = DynamicWeights()

    @property
    def result(self) -> nn.Module:
        """The network to test and keep: the average where the recipe has one."""
        return self.network if self.average is None else self.average.module

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms of the loss on one batch (see :class:`~edgepose.train.data.loader.PoseDataset`)."""
        batch = {name: tensor.to(self.ranks.device, non_blocking=True) for name, tensor in batch.items()}
        dtype = next(self.network.parameters()).dtype
        images = normalise(batch["crop"]).to(dtype).contiguous(memory_format=torch.channels_last)
        autocast = self.recipe.precision != "fp32"
        with torch.autocast(self.ranks.device.type, _PRECISIONS[self.recipe.precision], enabled=autocast):
            heads = self.parallel(images)
        heads = Heads(*(None if maps is None else maps.to(dtype) for maps in heads))
        targets = Targets(*(batch[name].to(dtype) for name in Targets._fields))
        return LOSS_FUNCTIONS[self.recipe.loss](heads, targets, self.recipe)

    def backward(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Gradients of one batch, from zero; returns the terms, averaged over the processes."""
        terms = self.losses(batch)
        weights = self.balance.of(tuple(terms)) if self.recipe.dynamic_weights else dict.fromkeys(terms, 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(sum(weights[name] * term for name, term in terms.items())).backward()
        return self.ranks.mean({name: float(term.detach()) for name, term in terms.items()})

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One optimiser step on one batch; returns the terms of the loss before it."""
        terms = self.backward(batch)
        self.balance.record(terms)
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return terms

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on exactly."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "balance": self.balance.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.balance.history = state["balance"]

    def largest_batch(self, batch: dict[str, Tensor]) -> int:
        """The largest half, quarter, ... of a batch whose gradients fit into the memory; 0 if not even one crop's."""
        count = len(batch["crop"]) // 2
        while count:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                sum(self.losses({name: tensor[:count] for name, tensor in batch.items()}).values()).backward()
            except torch.OutOfMemoryError:
                count //= 2
            else:
                break
        return count


def _optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    if recipe.schedule == "steps":
        return MultiStepLR(optimizer, [epoch * steps for epoch in recipe.milestone_epochs], gamma=0.1)
    return OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=recipe.epochs * steps, pct_start=0.15)


def check_device(device: str, precision: str) -> None:
    """Refuse a device or a precision that cannot be used here.

    Raises:
        UsageError: with what to do instead.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        raise UsageError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}; use cpu") from error
    if (
        precision == "bf16"
        and device.startswith("cuda")
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UsageError(f"{torch.cuda.get_device_name()} has no bf16: --set precision=fp16")
