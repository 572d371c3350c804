"""Read weights from the files of this project and of others, whatever a training script put around them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError
from .resnet import PUBLISHED_NAMES, never_run

BACKBONE = "backbone."
#: Entries in which training scripts store weights averaged over the steps (timm, mmengine, torchvision, DETR's family).
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
#: Entries in which they store the weights themselves.
_RAW = ("state_dict", "model_state_dict", "model", "net", "network", "module")
#: What Lightning and others put before the names of the network's weights; the averaged ones first.
_PREFIXES = ("", "ema_model.", "model_ema.", "ema.", "model.", "net.", "network.")
#: Parts of names that PyTorch's own wrappers add: DataParallel, DistributedDataParallel, AveragedModel, compile.
_WRAPPERS = ("module", "_orig_mod")
#: Counters that are no weights: batch norms' (read by cumulative ones only), AveragedModel's, mmengine's averages'.
_COUNTERS = ("num_batches_tracked", "n_averaged", "steps")


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a file.

    Attributes:
        path: the file.
        tensors: the weights that a network runs, by name, without wrappers' parts and under this project's names.
        unused: names, as in the file, of further weights, which the file's own network stores and never runs.
        choice: which of several sets of weights in the file these are, in words; empty if there is one.
    """

    path: Path
    tensors: dict[str, Tensor]
    unused: tuple[str, ...]
    choice: str


@dataclass(frozen=True)
class Matches:
    """Which weight of a file is which of a network, by name alone.

    Attributes:
        names: the network's name by the file's.
        others: names of the file's weights that belong to the network by their prefix, and that it does not have.
        outside: names of the file's weights under another prefix: losses, metrics, a second network.
        choice: as of :class:`StoredWeights`.
    """

    names: dict[str, str]
    others: tuple[str, ...]
    outside: tuple[str, ...]
    choice: str


def read_weights(path: Path) -> StoredWeights:
    """Read the weights in a ``.safetensors`` file, or in one that ``torch.save`` wrote; no code in it is run.

    The weights may stand in an entry such as ``state_dict``, ``model`` or ``net``, one in another. Where averaged
    weights (EMA) are there too, those are taken, as their authors do for testing; ``choice`` says so. mmengine swaps
    the two when it saves (its ``hooks/ema_hook.py``): its ``state_dict`` is the averaged one.

    Raises:
        UsageError: the file is missing, damaged, of another format, holds no weights, or weights that only code can
            read, or those of an ``hsr_msnet`` of before it was its authors' network.
    """
    require_checkpoint(path)
    try:
        content, stand_ins = _load(path)
    except Exception as error:  # pickle, zip and safetensors raise many types for a damaged file
        raise unreadable(path, error) from error
    state, choice = _find_state(content)
    if state is None and stand_ins:
        raise unreadable(path, pickle.UnpicklingError())
    if state is None:
        raise UsageError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    cleaned = {_unwrapped(name): value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    names = {_published(name): name for name in cleaned}
    if any(re.search(r"(^|\.)layer[1-3]\.\d+\.scales\.\d", name) for name in names):
        raise UsageError(
            f"{path} holds an hsr_msnet of an older edgepose, another network than its paper's authors', which is what "
            "hsr_msnet is now: train it again"
        )
    unused = never_run(names)
    tensors = {ours: cleaned[name] for ours, name in names.items() if ours not in unused}
    dropped = tuple(name for ours, name in names.items() if ours in unused and is_weight(name))
    return StoredWeights(path, tensors, dropped, choice)


def match_names(stored: StoredWeights, wanted: Mapping[str, Tensor]) -> Matches:
    """Find the network's name of every stored weight: its own, or another below a prefix, or in or out of a backbone.

    The way is taken by which most weights fit in name and shape. mmpose calls the two parts ``backbone`` and
    ``keypoint_head`` (0.x) or ``head`` (1.x).
    """

    def fitting(rename: Callable[[str], str]) -> int:
        names = ((name, rename(name)) for name in stored.tensors)
        return sum(to in wanted and wanted[to].shape == stored.tensors[name].shape for name, to in names)

    found = {prefix: max(_ways(prefix), key=fitting) for prefix in _PREFIXES}
    counts = {prefix: fitting(rename) for prefix, rename in found.items()}
    best = max(_PREFIXES, key=counts.__getitem__)
    renamed = {name: found[best](name) for name in stored.tensors}
    names = {name: to for name, to in renamed.items() if to in wanted}
    left = tuple(name for name in stored.tensors if name not in names and is_weight(name))
    choice = stored.choice
    if best.startswith(("ema", "model_ema")) and any(counts[prefix] for prefix in _PREFIXES if prefix != best):
        choice = f"the averaged weights ({best.rstrip('.')})"
    return Matches(
        names,
        others=tuple(name for name in left if name.startswith(best)),
        outside=tuple(name for name in left if not name.startswith(best)),
        choice=choice,
    )


def _ways(prefix: str) -> Iterable[Callable[[str], str]]:
    """Return functions that rename what begins with ``prefix``, and give an empty name to the rest."""

    def below(name: str) -> str:
        return name.removeprefix(prefix) if name.startswith(prefix) else ""

    return (
        below,
        lambda name: BACKBONE + below(name),
        lambda name: re.sub(r"^(backbone|keypoint_head|head)\.", "", below(name)),
    )


def is_weight(name: str) -> bool:
    """Return whether an entry of a state dict is a weight, and not a counter."""
    return name.rpartition(".")[2] not in _COUNTERS


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
        raise unreadable(path, error) from error
    if not begin.startswith((b"PK\x03\x04", b"\x80")):
        raise UsageError(f"{path} is not a checkpoint: expected a .safetensors file, or one that torch.save wrote")


def unreadable(path: Path, error: Exception) -> UsageError:
    """Return the sentence for an error that a library raised on reading ``path``."""
    if isinstance(error, pickle.UnpicklingError):  # its text advises to run whatever code the file holds
        return UsageError(f"{path} holds more than tensors, and reading that could run code: save the state dict alone")
    reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
    return UsageError(f"{path} is not a readable checkpoint (truncated or of another format): {reason}")


class _StandIn:
    """What is read in place of an object of a class that is not known to be safe: nothing of it is kept or run."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _load(path: Path) -> tuple[Any, bool]:
    """Return what a file holds, and whether something in it was replaced by a :class:`_StandIn`.

    Training scripts leave their options and histories beside the weights, as objects of classes of their own.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path), False
    known = _numpy_globals()
    with torch.serialization.safe_globals(known):
        try:
            return torch.load(path, map_location="cpu", weights_only=True), False
        except pickle.UnpicklingError:
            if not zipfile.is_zipfile(path):  # as before PyTorch 1.6: its classes cannot be listed without reading it
                raise
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([*known, *((_StandIn, name) for name in names)]):
        return torch.load(path, map_location="cpu", weights_only=True), True


def _find_state(content: Any) -> tuple[dict[str, Any] | None, str]:
    """Return the state dict in what a file holds, None if there is none, and which of several it is."""
    choice = ""
    for _ in range(8):  # a hostile file may hold itself
        if not isinstance(content, dict):
            break
        entries = [name for name in (*_AVERAGED, *_RAW) if isinstance(content.get(name), dict)]
        if not entries:
            break
        averaged = [name for name in entries if name in _AVERAGED]
        if averaged and len(entries) > len(averaged):
            if _is_mmengines(content):
                choice = "the averaged weights (state_dict; mmengine keeps the others in ema_state_dict)"
                entries = ["state_dict"]
            else:
                choice = f"the averaged weights ({entries[0]}), not {entries[len(averaged)]}"
        content = content[entries[0]]
    is_state = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not is_state or (content and not any(isinstance(value, Tensor) for value in content.values())):
        return None, ""
    return content, choice


def _is_mmengines(content: Mapping[str, Any]) -> bool:
    meta = content.get("meta")
    is_named = isinstance(meta, dict) and "mmengine_version" in meta
    return "state_dict" in content and ("message_hub" in content or is_named)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _published(name: str) -> str:
    """Return this project's name of a weight that :data:`PUBLISHED_NAMES` lists; all others stay."""
    for pattern, ours in PUBLISHED_NAMES:
        name = re.sub(pattern, ours, name)
    return name


def _numpy_globals() -> list[Any]:
    """Return the functions and types of NumPy that a pickled scalar or array of numbers names; none runs code.

    Training scripts store a score as a NumPy scalar. NumPy 2 moved the functions; files may have either name.
    """
    functions: tuple[Any, ...] = (np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0])
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    moved = [(function, f"{module}.{function.__name__}") for module in modules for function in functions]
    return [*moved, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"}]
