"""Find the ONNX node at which an engine, or the graph itself, first departs from PyTorch.

Every inner tensor is read out through a copy of the graph that has them all as outputs. That keeps engines from fusing
across nodes, so a fault that only exists in a fused graph cannot be seen here; the sentence then says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import CHECKPOINT, Bundle, Goldens
from ..errors import missing_extra
from ..runtime.backends import ENGINE_BACKENDS, open_graph, unavailable
from ..runtime.session import Arrays

#: The graph contract's input, and the output where the network ends and the decoding begins.
IMAGES, HEATMAPS = "images", "heatmaps"
#: Two FP32 tensors are the same up to this fraction of the reference's largest value (see ``checks.LIMITS``).
_SAME = 1e-4
#: FP16's largest finite number.
_FP16_MAX = 65504.0


@dataclass(frozen=True)
class Node:
    """A node of the graph: how to call it, and the names of its tensors."""

    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def first_difference(bundle: Bundle, backend: str, precision: str, goldens: Goldens, crop: int) -> str:
    """One sentence that names the first node that goes wrong, or says why there is none to name.

    Args:
        bundle: an opened bundle.
        backend: the backend that failed.
        precision: what it computes in.
        goldens: the bundle's goldens.
        crop: index of the crop to run; one that fails shows the most.
    """
    if backend == "torch":
        return "PyTorch itself no longer gives the goldens: checkpoint and goldens differ, so export the bundle again"
    images = {IMAGES: goldens.images[crop : crop + 1]}
    with TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.onnx"
        nodes = write_probe(bundle.graph, probe)
        expected = _run(probe, "onnxruntime", images)
        overflow = first_beyond(nodes, expected, _FP16_MAX if "fp16" in precision else np.inf)
        if overflow:
            return overflow
        if backend in ENGINE_BACKENDS:
            return (
                "no node of the graph overflows, and an engine's inner tensors cannot be read: "
                "if onnxruntime passes, building the engine changed the numbers; build it with a higher precision"
            )
        if backend != "onnxruntime":
            node = first_unequal(nodes, expected, _run(probe, backend, images))
            if node:
                return f"{backend} first differs from onnxruntime at {node}"
    return _departure_from_pytorch(bundle, nodes, expected, images, backend)


def _departure_from_pytorch(bundle: Bundle, nodes: Sequence[Node], got: Arrays, images: Arrays, backend: str) -> str:
    agree = f"{backend} computes every node as the graph says"
    if unavailable("torch") or not (bundle.path / CHECKPOINT).is_file():
        return (
            f"{agree}: the graph itself differs from PyTorch; with torch and the checkpoint here, verify can say where"
        )
    node = first_unmatched(_leading_to(nodes, HEATMAPS), got, pytorch_tensors(bundle, images[IMAGES]))
    if node:
        return f"{agree}: the graph itself differs from the checkpoint in PyTorch, first at {node}; export it again"
    return (
        f"{agree}, and its heat-maps are the checkpoint's in PyTorch: the goldens are another checkpoint's (export the "
        "bundle again), or the fault is in the decoding after the heat-maps, or only in the fused graph"
    )


def write_probe(graph: Path, path: Path) -> list[Node]:
    """Write a copy of a graph with its functions inlined and every float tensor as an output.

    Returns:
        the nodes in the order of the file, which ONNX requires to be an order of computation.

    Raises:
        UsageError: the ``onnx`` package is not installed.
    """
    try:
        import onnx
        from onnx import inliner, shape_inference
    except ImportError as error:
        raise missing_extra("onnx", "export") from error
    model = shape_inference.infer_shapes(inliner.inline_local_functions(onnx.load(graph)))
    known = {value.name for value in model.graph.output}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    inner = [v for v in model.graph.value_info if v.type.tensor_type.elem_type in floats and v.name not in known]
    model.graph.output.extend(inner)
    onnx.save(model, path)
    return [
        Node(f"{node.op_type} node {node.name or node.output[0]!r}", tuple(node.input), tuple(node.output))
        for node in model.graph.node
    ]


def _run(graph: Path, backend: str, feeds: Arrays) -> Arrays:
    session = open_graph(graph, backend)
    try:
        return session.run(feeds)
    finally:
        session.close()


def first_beyond(nodes: Iterable[Node], tensors: Arrays, largest: float) -> str | None:
    """A sentence on the first node with a value that is NaN, infinite, or larger than ``largest``, or None."""
    for node in nodes:
        for name in node.outputs:
            tensor = tensors.get(name)
            if tensor is None or not np.issubdtype(tensor.dtype, np.floating):
                continue
            if not np.isfinite(tensor).all():
                return f"NaN or infinity first appears at {node.label}"
            peak = float(np.abs(tensor).max(initial=0.0))
            if peak > largest:
                return f"{node.label} reaches {peak:.3g}, above FP16's {largest:g}: keep it in FP32"
    return None


def first_unequal(nodes: Iterable[Node], expected: Arrays, got: Arrays) -> str | None:
    """Label of the first node of which an output differs between two runs of one graph, or None."""
    for node in nodes:
        for name in node.outputs:
            if name in expected and name in got and not _same(got[name], expected[name]):
                return node.label
    return None


def first_unmatched(nodes: Sequence[Node], got: Arrays, reference: Iterable[NDArray[Any]]) -> str | None:
    """Label of the node at which a graph leaves what PyTorch computes, or None.

    The exporter folds and renames, so tensors are matched by value. A node is right if an output of it equals any
    PyTorch tensor, or if all nodes that read it are right (PyTorch shows no tensor inside a sum of three, say). The
    first node that is wrong is the fault, unless every wrong reader of it has another wrong input to blame.
    """
    by_shape: dict[tuple[int, ...], list[NDArray[Any]]] = {}
    for array in reference:
        by_shape.setdefault(array.shape, []).append(array)
    matched = {name for name, tensor in got.items() if any(_same(tensor, a) for a in by_shape.get(tensor.shape, ()))}
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    wrong: set[str] = set()

    def wrong_readers(node: Node) -> list[Node]:
        return [r for name in node.outputs for r in readers.get(name, ()) if not wrong.isdisjoint(r.outputs)]

    for node in reversed(nodes):
        is_read = any(name in readers for name in node.outputs)
        if matched.isdisjoint(node.outputs) and (wrong_readers(node) or not is_read):
            wrong.update(node.outputs)
    from_images = {IMAGES}
    for node in nodes:
        if from_images.isdisjoint(node.inputs):  # constants and index arithmetic have no counterpart in PyTorch
            continue
        from_images.update(node.outputs)
        if wrong.isdisjoint(node.outputs) or got.keys().isdisjoint(node.outputs):
            continue
        blamed = wrong_readers(node)
        if not blamed or any(wrong.isdisjoint({*reader.inputs} - {*node.outputs}) for reader in blamed):
            return node.label
    return None


def _leading_to(nodes: Sequence[Node], tensor: str) -> list[Node]:
    """The nodes that a tensor is computed from, in order."""
    needed, chosen = {tensor}, []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            chosen.append(node)
    return chosen[::-1]


def _same(tensor: NDArray[Any], reference: NDArray[Any]) -> bool:
    if tensor.shape != reference.shape:
        return False
    limit = _SAME * max(float(np.abs(reference).max(initial=0.0)), 1e-12)
    # Most candidates differ everywhere: a few values settle that without reading a whole activation.
    sample = slice(None, None, max(1, tensor.size // 64))
    close = np.abs(tensor.reshape(-1)[sample] - reference.reshape(-1)[sample]) <= limit
    return bool(close.all() and (np.abs(tensor - reference) <= limit).all())


def pytorch_tensors(bundle: Bundle, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
    """Every tensor that enters or leaves a module of the bundle's network, for crops (N, H, W, 3) uint8.

    Without the keypoints: in them whole pixels hide the small differences that must be seen.
    """
    import torch

    from ..train.checkpoint import ModelSpec, load_weights
    from ..train.models.contract import normalise

    manifest = bundle.manifest
    network = ModelSpec(manifest.model, manifest.skeleton, manifest.input_size, manifest.options).build()
    load_weights(network, bundle.path / CHECKPOINT)
    seen: list[NDArray[Any]] = []

    def keep(value: object) -> None:
        if isinstance(value, (tuple, list)):
            for item in value:
                keep(item)
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            seen.append(value.numpy().copy())  # a later in-place ReLU would change it

    for module in network.eval().modules():
        module.register_forward_hook(lambda _, inputs, output: keep((inputs, output)))
    with torch.inference_mode():
        network(normalise(torch.from_numpy(images)))
    return seen
