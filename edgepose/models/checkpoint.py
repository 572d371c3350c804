"""Write and read checkpoints: safetensors files that name their network, and weights of other projects."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.files import atomic_path
from . import HEATMAP_MODELS, MODELS, build_model, named_options
from .weight_files import BACKBONE, is_weight, match_names, read_weights, require_checkpoint, unreadable

if TYPE_CHECKING:
    from ..bundle.manifest import Manifest


@dataclass(frozen=True)
class ModelSpec:
    """The arguments with which :func:`build_model` makes a heat-map network again.

    Attributes:
        model: its name.
        skeleton: skeleton id.
        input_size: (height, width) of the crops.
        options: further arguments, as JSON keeps them; :func:`build_model` checks them. Those whose default has changed
            are always named (:func:`named_options`), so that what is written says which network it is.
    """

    model: str
    skeleton: str
    input_size: tuple[int, int]
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", named_options(self.model, self.options))

    @classmethod
    def of_file(
        cls, model: str, skeleton: str, input_size: tuple[int, int], options: Mapping[str, Any] | None = None
    ) -> ModelSpec:
        """Return the spec that a file describes, which may have been written before a default was changed."""
        return cls(model, skeleton, input_size, named_options(model, options or {}, in_file=True))

    @classmethod
    def of(cls, manifest: Manifest) -> ModelSpec:
        """Return the spec of a pose bundle's network."""
        return cls.of_file(manifest.model, manifest.skeleton, manifest.input_size, manifest.options)

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
        raise unreadable(path, error) from error
    if "edgepose" not in metadata:
        return None
    try:
        values: dict[str, Any] = json.loads(metadata["edgepose"])
        height, width = values["input_size"]
        if not isinstance(values.get("options", {}), dict):
            raise TypeError(f"options are {values['options']!r}")
        return ModelSpec.of_file(**{**values, "input_size": (int(height), int(width))})
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} has a damaged description of its network ({error}): write it again") from error


@dataclass(frozen=True)
class LoadReport:
    """Which weights were loaded; counters, which nothing reads, are left out.

    Attributes:
        loaded: names of the network's weights that the file gave.
        skipped: names of the file's weights that the network does not have, or has in another shape.
        missing: names of the network's weights that keep their start values.
        unused: names of the file's weights that its own network stores and never runs.
        choice: which of several sets of weights in the file was taken; empty if there is one.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...] = ()
    choice: str = ""

    def __str__(self) -> str:
        """Return one line with the numbers of weights by module.

        >>> str(LoadReport(("conv1.weight",), ("fc.bias",), ("final_layer.weight", "final_layer.bias")))
        'loaded 1 of 3 weights; still at their start: final_layer (2); left in the file: fc (1)'
        """
        line = f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} weights"
        for what, names in (
            ("still at their start", self.missing),
            ("left in the file", self.skipped),
            ("dropped, as their own network never runs them", self.unused),
        ):
            if names:
                line += f"; {what}: {_by_module(names)}"
        return line + (f"; taken: {self.choice}" if self.choice else "")


def load_weights(network: nn.Module, path: Path) -> LoadReport:
    """Load every weight of ``network`` from a file that :func:`~edgepose.models.weight_files.read_weights` reads.

    Weights beside the network's, under another prefix, may be in the file; the report names them.

    Raises:
        UsageError: the file cannot be read, its keys or shapes are not the network's (the first ones are named), or a
            weight is not finite.
    """
    stored, wanted = read_weights(path), network.state_dict()
    matches = match_names(stored, wanted)
    given = {to: stored.tensors[name] for name, to in matches.names.items()}
    problems = {
        "missing": sorted(_weights(wanted).keys() - given.keys()),
        "unknown": sorted(matches.others),
        "of another shape": sorted(
            f"{name} {tuple(value.shape)} instead of {tuple(wanted[name].shape)}"
            for name, value in given.items()
            if value.shape != wanted[name].shape
        ),
    }
    if any(problems.values()):
        found = "; ".join(
            f"{len(keys)} keys {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in problems.items()
            if keys
        )
        raise UsageError(f"{path} holds the weights of another model: {found}")
    _fill(network, given, path)
    return LoadReport(tuple(_weights(wanted)), matches.outside, (), stored.unused, matches.choice)


def load_pretrained(network: nn.Module, path: Path) -> LoadReport:
    """Load every weight that ``network`` has by the same name and shape; the others keep their start values.

    Takes files as :func:`load_weights`: pose checkpoints of HRNet, SimpleBaseline and HSR-MSNet by their authors and of
    mmpose (another number of joints leaves the head out), ImageNet checkpoints of HRNet, of ResNet with torchvision's
    names and of DetNet, and this project's own. If more names fit that way, the file's weights go into the network's
    ``backbone``, or the file's ``backbone`` into the network.

    Raises:
        UsageError: the file cannot be read, nothing in it fits, or a weight that fits is not finite.
    """
    stored, wanted = read_weights(path), network.state_dict()
    matches = match_names(stored, wanted)
    names = {name: to for name, to in matches.names.items() if wanted[to].shape == stored.tensors[name].shape}
    if not any(map(is_weight, names)):
        held, expected = _examples(_weights(stored.tensors)), _examples(_weights(wanted))
        raise UsageError(f"nothing in {path} fits this network: it holds {held}, expected such as {expected}")
    given = {to: stored.tensors[name] for name, to in names.items()}
    _fill(network, given, path)
    return LoadReport(
        loaded=tuple(name for name in _weights(wanted) if name in given),
        skipped=tuple(name for name in _weights(stored.tensors) if name not in names),
        missing=tuple(name for name in _weights(wanted) if name not in given),
        unused=stored.unused,
        choice=matches.choice,
    )


def _fill(network: nn.Module, given: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a network, in its types.

    Refuse what is no plain floating-point number, NaN and infinity, naming the first, before any weight is changed.
    """
    for name, value in given.items():
        is_plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not is_plain or (is_weight(name) and not value.is_floating_point()):
            kind = f"{value.dtype}, {value.layout}, on {value.device.type}"
            raise UsageError(f"{path} holds {name} as {kind}: expected plain floating-point numbers, save it as such")
    wanted = network.state_dict()
    state = {name: value.to(wanted[name].dtype) for name, value in given.items()}
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise UsageError(f"{path} holds NaN or infinity in {broken[0]}: take weights from before training diverged")
    network.load_state_dict(state, strict=False)


def _weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if is_weight(name)}


def _by_module(names: Iterable[str]) -> str:
    found = Counter(".".join(name.split(".")[: 2 if name.startswith(BACKBONE) else 1]) for name in names)
    return ", ".join(f"{module} ({count})" for module, count in found.items())


def _examples(state: Mapping[str, Tensor]) -> str:
    listed = [f"{name} {tuple(value.shape)}" for name, value in list(state.items())[:2]]
    return ", ".join(listed) + ", ..." * (len(state) > 2) if listed else "no weights"
