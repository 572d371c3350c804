"""Split a network into the parts that a search chooses a precision for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from .module_names import module_of

if TYPE_CHECKING:
    import onnx

#: Largest share of all convolutions in one part; only a module without child modules may hold more.
_SHARE = 1 / 16


def partition(convolutions: Sequence[onnx.NodeProto]) -> dict[str, list[str]]:
    """Group the names of Conv nodes by module path; raise UsageError if only some nodes have one.

    A module with too many of them is split into its child modules. Without module paths, as in an imported graph,
    consecutive convolutions form the groups.
    """
    modules = {node.name: module_of(node) for node in convolutions}
    largest = max(1, round(len(modules) * _SHARE))
    if not any(modules.values()):
        names = list(modules)
        runs = [names[start : start + largest] for start in range(0, len(names), largest)]
        return {run[0] if len(run) == 1 else f"{run[0]}..{run[-1]}": run for run in runs}
    unknown = next((name for name, module in modules.items() if not module), None)
    if unknown is not None:
        raise UsageError(f"node {unknown} has no module path, unlike other convolutions: export the bundle again")
    return _split("", sorted(modules), modules, largest)


def _split(path: str, names: list[str], modules: dict[str, str], largest: int) -> dict[str, list[str]]:
    depth = path.count(".") + 1 if path else 0
    children: dict[str, list[str]] = {}
    for name in names:
        children.setdefault(".".join(modules[name].split(".")[: depth + 1]), []).append(name)
    if (path and len(names) <= largest) or list(children) == [path]:
        return {path: names}
    parts = (_split(child, inside, modules, largest) for child, inside in children.items())
    return {module: inside for part in parts for module, inside in part.items()}
