"""Export PyTorch networks as portable ONNX graphs, and check that the graphs compute the same."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..bundle.contract import HEATMAPS, IMAGES, KEYPOINTS
from ..core.errors import CheckError, UsageError, missing_extra
from ..core.files import atomic_path
from ..core.geometry import Size
from ..core.heatmaps import decode
from ..graphs.module_names import name_modules
from ..models.pose_graph import PoseGraph
from ..plugins.onnx_function import OPSET, function_body
from ..plugins.spec import DOMAIN, OP_TYPE, VERSION

if TYPE_CHECKING:
    import onnx

#: Largest error of the simplified graph's maps, as a fraction of their range. Folding batch norms into
#: convolutions reorders float32 sums; a larger error is a wrong rewrite.
SIMPLIFY_LIMIT = 1e-5

#: Largest distance of keypoints from the reference decoding of the same heat-maps, in crop pixels: both are exact.
DECODE_LIMIT = 1e-3


def export_graph(network: nn.Module, input_size: Size, path: Path, *, with_maps: bool = False) -> None:
    """Write ``network`` as an FP32 ONNX graph: uint8 crops in, keypoints and heat-maps out, dynamic batch.

    ``with_maps`` is that of :class:`edgepose.models.pose_graph.PoseGraph`.

    The graph is simplified (onnxsim) and compared with the original; a dynamic convolution is one
    ``edgepose::DynamicDepthwiseConv2d`` node with a function body of standard ops in the file. The name of every node
    contains the path of its module (:mod:`edgepose.graphs.module_names`).

    ``network`` takes normalised (N, 3, H, W) and is not modified; ``input_size`` is (height, width) of the crops.

    Raises:
        UsageError: onnx, onnxscript or onnxsim is not installed, or ``path`` cannot be written.
        CheckError: simplifying changed a map, or the graph decodes its own heat-maps wrongly.
    """
    # A copy: the exporter sets modes on the module, and the caller's may be in training.
    graph = PoseGraph(copy.deepcopy(network).cpu().float(), with_maps=with_maps).eval()
    exported = _with_function_body(trace(graph, input_size, graph.outputs))
    simplified = simplify(exported)
    _check_same(exported, simplified, input_size, graph.outputs)
    name_modules(simplified, exported)
    save_graph(simplified, path)


def require_exporter() -> None:
    """Raise UsageError if onnx, onnxscript or onnxsim is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401  PyTorch's own message for a missing onnxscript is less clear
        import onnxsim  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "export") from error


def trace(graph: nn.Module, input_size: Size, outputs: Sequence[str]) -> onnx.ModelProto:
    """Export a module as ONNX with the input ``images``, uint8 (N, H, W, 3) with dynamic N.

    The module is in eval mode on the CPU, and takes pictures of (height, width) to as many tensors as there are names
    of ``outputs``. Raises UsageError as :func:`require_exporter`.
    """
    require_exporter()
    # Two samples, because the exporter would treat a batch of one as a constant.
    example = torch.zeros(2, *input_size, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            input_names=[IMAGES],
            output_names=list(outputs),
            dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}},
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch.onnx.export returned nothing")
    return program.model_proto


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph simplified by onnxsim; ``model`` is not modified."""
    import onnxsim

    with _quiet():
        return onnxsim.simplify(model)[0]


def run_graph(model: onnx.ModelProto, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[np.ndarray]:
    """Run a graph once in ONNX Runtime on pictures (N, H, W, 3) uint8, and return the named outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {IMAGES: images})


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Check a graph with ONNX's checker and write it atomically; raise UsageError if that fails."""
    import onnx

    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


def _with_function_body(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the function body of ``edgepose`` nodes, for their static shapes, in place, and return the model."""
    nodes = [node for node in model.graph.node if node.domain == DOMAIN and node.op_type == OP_TYPE]
    if not nodes:
        return model
    from onnx import helper, shape_inference

    inferred = shape_inference.infer_shapes(model)
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in [*inferred.graph.value_info, *inferred.graph.input]
    }
    sizes = {(*shapes[node.input[0]][1:], *shapes[node.input[1]][2:]) for node in nodes}
    if len(sizes) > 1:
        raise UsageError(f"{OP_TYPE}: one graph can hold one size (C, H, W, kh, kw), got {sorted(sizes)}")
    model.functions.append(function_body(*sizes.pop()))
    if DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    return model


def _check_same(before: onnx.ModelProto, after: onnx.ModelProto, input_size: Size, outputs: Sequence[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *input_size, 3), dtype=np.uint8)
    wanted, found = (dict(zip(outputs, run_graph(model, images, outputs), strict=True)) for model in (before, after))
    for name in outputs:
        if name == KEYPOINTS:  # rounding may swap two peaks of nearly the same height
            continue
        want, got = wanted[name], found[name]
        error = float(np.abs(got - want).max() / max(float(np.ptp(want)), 1e-12))
        if not error <= SIMPLIFY_LIMIT:
            what = "heat-maps" if name == HEATMAPS else name
            raise CheckError(f"onnxsim changed the {what} by {error:.1e} of their range (limit {SIMPLIFY_LIMIT:.0e})")
    moved = float(np.abs(found[KEYPOINTS] - decode(found[HEATMAPS])).max())
    if not moved <= DECODE_LIMIT:
        raise CheckError(f"the simplified graph decodes its heat-maps {moved:.3g} px off (limit {DECODE_LIMIT:.0e} px)")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings about its internals, which do not concern users."""
    loggers: list[Any] = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
