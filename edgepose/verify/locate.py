"""Find the ONNX node at which an engine, or the graph itself, first differs from PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.plan import Runner, unavailable
from ..backends.session import Arrays
from ..bundle.bundle import Bundle
from ..bundle.contract import IMAGES
from ..bundle.goldens import Goldens
from ..bundle.manifest import CHECKPOINT
from ..graphs.probe import Node, leading_to, write_probe
from ..nvidia.tensorrt import TARGETS
from .probe import run_probe
from .variants import variant_difference

#: Two FP32 tensors are equal up to this fraction of the reference's largest value, the score limit of ``fp32``.
_SAME = 1e-4


def first_difference(runner: Runner, goldens: Goldens, image: int) -> str:
    """Return one sentence with the first wrong node of a runner that failed, or with the reason why none is found.

    ``image`` is the index of the golden image to run, best one that fails.
    """
    bundle, backend = runner.bundle, runner.backend
    if backend == "torch":
        return "PyTorch does not reproduce the goldens: checkpoint and goldens differ, so export the bundle again"
    images = {IMAGES: goldens.images[image : image + 1]}
    if runner.precision != "fp32":
        return variant_difference(runner, images)
    with TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.onnx"
        nodes = write_probe(bundle.graph, probe)
        expected = run_probe(probe, "onnxruntime", images)
        broken = first_not_finite(nodes, expected)
        if broken:
            return f"NaN or infinity first appears at {broken}"
        if backend in TARGETS:
            return (
                "every node of the graph gives finite numbers, and an engine's inner tensors cannot be read: "
                "if onnxruntime passes, the engine is wrong; build it again, or with another version"
            )
        if backend != "onnxruntime":
            node = first_unequal(nodes, expected, run_probe(probe, backend, images))
            if node:
                return f"{backend} first differs from onnxruntime at {node}"
    return _departure_from_reference(bundle, nodes, expected, images, backend)


def _departure_from_reference(bundle: Bundle, nodes: Sequence[Node], got: Arrays, images: Arrays, backend: str) -> str:
    agree = f"{backend} computes every node correctly"
    checkpoint = bundle.path / CHECKPOINT
    if bundle.manifest.imported:
        return f"{agree}: the goldens are from another file, or the fault is only in the fused graph; import it again"
    if unavailable("torch") or not checkpoint.is_file():
        return f"{agree}: the graph itself differs from PyTorch; with torch and the checkpoint, verify finds the node"
    before_decoding = leading_to(nodes, bundle.task.outputs[:-1])
    node = first_unmatched(before_decoding, got, pytorch_tensors(bundle, images[IMAGES]))
    if node:
        return f"{agree}: the graph itself differs from the checkpoint in PyTorch, first at {node}; export it again"
    return (
        f"{agree}, and its {bundle.task.score}s equal PyTorch's: the goldens are from another checkpoint (export the "
        f"bundle again), or the fault is in the decoding of the {bundle.task.points}, or only in the fused graph"
    )


def first_not_finite(nodes: Iterable[Node], tensors: Arrays) -> str | None:
    """Return the label of the first node with NaN or infinity in an output, or None."""
    return _first(nodes, lambda name: name in tensors and not np.isfinite(tensors[name]).all())


def first_unequal(nodes: Iterable[Node], expected: Arrays, got: Arrays) -> str | None:
    """Return the label of the first node with an output that differs between two runs of one graph, or None."""
    both = expected.keys() & got.keys()
    return _first(nodes, lambda name: name in both and not _same(got[name], expected[name]))


def _first(nodes: Iterable[Node], is_wrong: Callable[[str], bool]) -> str | None:
    return next((node.label for node in nodes if any(map(is_wrong, node.output))), None)


def first_unmatched(nodes: Sequence[Node], got: Arrays, reference: Iterable[NDArray[Any]]) -> str | None:
    """Return the label of the node at which a graph first differs from PyTorch, or None.

    The exporter folds and renames, so tensors are matched by value. A node is right if one of its outputs equals any
    PyTorch tensor, or if all nodes that read it are right (PyTorch gives no tensor inside a sum of three, for example).
    The fault is the first wrong node, unless every wrong reader of it has another wrong input.
    """
    by_shape: dict[tuple[int, ...], list[NDArray[Any]]] = {}
    for array in reference:
        by_shape.setdefault(array.shape, []).append(array)
    matched = {name for name, tensor in got.items() if any(_same(tensor, a) for a in by_shape.get(tensor.shape, ()))}
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    wrong: set[str] = set()

    def wrong_readers(node: Node) -> list[Node]:
        return [r for name in node.output for r in readers.get(name, ()) if not wrong.isdisjoint(r.output)]

    for node in reversed(nodes):
        is_read = any(name in readers for name in node.output)
        if matched.isdisjoint(node.output) and (wrong_readers(node) or not is_read):
            wrong.update(node.output)
    from_images = {IMAGES}
    for node in nodes:
        if from_images.isdisjoint(node.input):  # constants and index arithmetic have no counterpart in PyTorch
            continue
        from_images.update(node.output)
        if wrong.isdisjoint(node.output) or got.keys().isdisjoint(node.output):
            continue
        blamed = wrong_readers(node)
        if not blamed or any(wrong.isdisjoint({*reader.input} - {*node.output}) for reader in blamed):
            return node.label
    return None


def _same(tensor: NDArray[Any], reference: NDArray[Any]) -> bool:
    if tensor.shape != reference.shape:
        return False
    limit = _SAME * max(float(np.abs(reference).max(initial=0.0)), 1e-12)
    # Most candidates differ everywhere, so compare a few values before the whole activation.
    sample = slice(None, None, max(1, tensor.size // 64))
    close = np.abs(tensor.reshape(-1)[sample] - reference.reshape(-1)[sample]) <= limit
    return bool(close.all() and (np.abs(tensor - reference) <= limit).all())


def pytorch_tensors(bundle: Bundle, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
    """Return every input and output of a module in the bundle's network and graph, for images (N, H, W, 3) uint8."""
    import torch

    from ..models.reference import reference_graph

    graph = reference_graph(bundle)
    seen: list[NDArray[Any]] = []

    def keep(value: object) -> None:
        if isinstance(value, (tuple, list)):
            for item in value:
                keep(item)
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            seen.append(value.numpy().copy())  # a later in-place ReLU would change it

    for module in graph.modules():
        module.register_forward_hook(lambda _, inputs, output: keep((inputs, output)))
    with torch.inference_mode():
        graph(torch.from_numpy(images))
    return seen
