"""Write and read checkpoints: safetensors files that name their network, and weights of other projects."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.files import atomic_path
from . import HEATMAP_MODELS, MODELS, build_model

_BACKBONE = "backbone."


@dataclass(frozen=True)
class ModelSpec:
    """The arguments with which :func:`build_model` makes a heat-map network again.

    Attributes:
        model: its name.
        skeleton: skeleton id.
        input_size: (height, width) of the crops.
        options: further arguments, as JSON keeps them; :func:`build_model` checks them.
    """

    model: str
    skeleton: str
    input_size: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Build the network, with weights drawn from seed 0.

        Raises:
            UsageError: as :func:`build_model`, and for a network that gives no heat-maps.
        """
        if self.model in MODELS and self.model not in HEATMAP_MODELS:
            raise UsageError(
                f"{self.model} finds persons and gives no heat-maps, as is needed here: "
                f"expected one of {', '.join(HEATMAP_MODELS)}"
            )
        return build_model(self.model, skeleton=self.skeleton, input_size=self.input_size, **self.options)


def save_checkpoint(path: Path, network: nn.Module, spec: ModelSpec | None) -> None:
    """Write weights and ``spec`` to a safetensors file, under a temporary name first.

    ``spec``, stored in the file's metadata, is None for a network that gives no heat-maps.

    Raises:
        UsageError: the file cannot be written, or the disk is full.
    """
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    content = save(tensors, metadata=None if spec is None else {"edgepose": json.dumps(asdict(spec))})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)  # what safetensors' own writer raises on a full disk is no OSError


def read_spec(path: Path) -> ModelSpec | None:
    """Read the spec in a safetensors file; None for a file that has none (another tool's, or a ``.pth``).

    Raises:
        UsageError: the file is missing, damaged or of another format, or its spec is damaged.
    """
    require_checkpoint(path)
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
        if not isinstance(values.get("options", {}), dict):
            raise TypeError(f"options are {values['options']!r}")
        return ModelSpec(**{**values, "input_size": (int(height), int(width))})
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} has a damaged description of its network ({error}): write it again") from error


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
    _check_finite(state, path)
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()})


@dataclass(frozen=True)
class LoadReport:
    """Which weights were loaded; batch norms' counters, which nothing reads, are left out.

    Attributes:
        loaded: names of the network's weights that the file gave.
        skipped: names of the file's weights that the network does not have, or has in another shape.
        missing: names of the network's weights that keep their start values.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line with the numbers of weights by module.

        >>> str(LoadReport(("conv1.weight",), ("fc.bias",), ("final_layer.weight", "final_layer.bias")))
        'loaded 1 of 3 weights; still at their start: final_layer (2); left in the file: fc (1)'
        """
        line = f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} weights"
        for what, names in (("still at their start", self.missing), ("left in the file", self.skipped)):
            if names:
                line += f"; {what}: {_by_module(names)}"
        return line


def load_pretrained(network: nn.Module, path: Path) -> LoadReport:
    """Load every weight that ``network`` has by the same name and shape; the others keep their start values.

    Takes files as :func:`load_weights`: official HRNet and SimpleBaseline pose checkpoints (another number of joints
    leaves the head out), ImageNet checkpoints of HRNet, of ResNet with torchvision's names and of DetNet, and this
    project's own. If more names fit that way, the file's weights go into the network's ``backbone``, or the file's
    ``backbone`` into the network.

    Raises:
        UsageError: the file cannot be read, nothing in it fits, or a weight that fits is not finite.
    """
    state, wanted = _weights(_read_state(path)), _weights(network.state_dict())
    renames = (str, lambda name: _BACKBONE + name, lambda name: name.removeprefix(_BACKBONE))
    names = max((_fitting(state, wanted, rename) for rename in renames), key=len)
    if not names:
        raise UsageError(
            f"nothing in {path} fits this network: it holds {_examples(state)}, expected such as {_examples(wanted)}"
        )
    chosen = {to: state[name] for name, to in names.items()}
    _check_finite(chosen, path)
    network.load_state_dict({to: value.to(wanted[to].dtype) for to, value in chosen.items()}, strict=False)
    return LoadReport(
        loaded=tuple(name for name in wanted if name in chosen),
        skipped=tuple(name for name in state if name not in names),
        missing=tuple(name for name in wanted if name not in chosen),
    )


def _fitting(state: dict[str, Tensor], wanted: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, str]:
    """Map the name of every weight in the file that fits the network to its name there."""
    # DetNet calls the projections of its dilated layers extra_conv.
    names = {name: rename(name).replace(".extra_conv.", ".downsample.") for name in state}
    return {name: to for name, to in names.items() if to in wanted and wanted[to].shape == state[name].shape}


def _weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _by_module(names: Iterable[str]) -> str:
    found = Counter(".".join(name.split(".")[: 2 if name.startswith(_BACKBONE) else 1]) for name in names)
    return ", ".join(f"{module} ({count})" for module, count in found.items())


def _examples(state: dict[str, Tensor]) -> str:
    listed = [f"{name} {tuple(value.shape)}" for name, value in list(state.items())[:2]]
    return ", ".join(listed) + ", ..." * (len(state) > 2) if listed else "no weights"


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    """Refuse NaN and infinite weights, naming the first; ``path`` is the file that they were read from."""
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise UsageError(f"{path} holds NaN or infinity in {broken[0]}: take weights from before training diverged")


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file or of a ``.pth`` (with ``weights_only=True``), by name.

    A ``state_dict`` entry around them, or a ``module.`` before each name, which training scripts leave, is removed.
    """
    require_checkpoint(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise many types for a damaged file
        raise _unreadable(path, error) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UsageError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def require_checkpoint(path: Path) -> None:
    """Refuse a file that cannot hold weights, by its name and first bytes.

    PyTorch writes a zip archive; before version 1.6 it wrote a pickle.

    Raises:
        UsageError: the file is missing, a folder, or of another format.
    """
    if path.is_dir():
        raise UsageError(f"checkpoint {path} is a folder: expected a .safetensors or .pth file")
    if not path.is_file():
        raise UsageError(f"checkpoint {path} does not exist: expected a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        return
    try:
        with path.open("rb") as file:
            begin = file.read(4)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not begin.startswith((b"PK\x03\x04", b"\x80")):
        raise UsageError(f"{path} is not a checkpoint: expected a .safetensors file, or one that torch.save wrote")


def _unreadable(path: Path, error: Exception) -> UsageError:
    if isinstance(error, pickle.UnpicklingError):  # its text advises to run whatever code the file holds
        return UsageError(f"{path} holds more than tensors, and reading that could run code: save the state dict alone")
    reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
    return UsageError(f"{path} is not a readable checkpoint (truncated or of another format): {reason}")
