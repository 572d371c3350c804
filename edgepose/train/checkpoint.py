"""Checkpoints: safetensors files that know which network they belong to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..files import atomic_path
from .models import build_model


@dataclass(frozen=True)
class ModelSpec:
    """What :func:`build_model` needs to make the network again."""

    model: str
    skeleton: str
    input_size: tuple[int, int]
    options: dict[str, bool] = field(default_factory=dict)

    def build(self) -> nn.Module:
        return build_model(self.model, skeleton=self.skeleton, input_size=self.input_size, **self.options)


def save_checkpoint(path: Path, network: nn.Module, spec: ModelSpec) -> None:
    """Write weights and ``spec`` to a safetensors file, under a temporary name first.

    Args:
        path: the file to write.
        network: its state dict is saved.
        spec: stored in the file's metadata.
    """
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"edgepose": json.dumps(asdict(spec))})


def read_spec(path: Path) -> ModelSpec | None:
    """The spec in a safetensors file, or None for a file that has none (another tool's, or a ``.pth``)."""
    if not path.is_file():
        raise UsageError(f"checkpoint {path} does not exist: expected a .safetensors or .pth file")
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    if "edgepose" not in metadata:
        return None
    try:
        values: dict[str, Any] = json.loads(metadata["edgepose"])
        height, width = values["input_size"]
        return ModelSpec(**{**values, "input_size": (int(height), int(width))})
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} does not say rightly which model it is of ({error}): write it again") from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Load every weight of ``network`` from a ``.safetensors`` file or a ``.pth`` (read with ``weights_only=True``).

    Raises:
        UsageError: the file cannot be read, its keys or shapes are not the network's (the first ones are named), or a
            weight is not finite.
    """
    state = _read_state(path)
    wanted = network.state_dict()
    # Checkpoints of PyTorch before 0.4 lack these counters, which only cumulative batch norms read.
    counters = {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked") and k not in state}
    state = {**state, **counters}
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unknown": sorted(state.keys() - wanted.keys()),
        "of another shape": sorted(
            f"{k} {tuple(state[k].shape)} instead of {tuple(wanted[k].shape)}"
            for k in wanted.keys() & state.keys()
            if state[k].shape != wanted[k].shape
        ),
    }
    if any(problems.values()):
        found = "; ".join(
            f"{len(keys)} keys {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in problems.items()
            if keys
        )
        raise UsageError(f"{path} holds the weights of another model: {found}")
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise UsageError(f"{path} holds NaN or infinity in {broken[0]}: take weights from before training diverged")
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()})


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UsageError(f"checkpoint {path} does not exist: expected a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise many types for a damaged file
        raise _unreadable(path, error) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise UsageError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _unreadable(path: Path, error: Exception) -> UsageError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UsageError(f"{path} is not a readable checkpoint (truncated or of another format): {reason}")
