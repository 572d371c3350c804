"""Find the ONNX node at which a graph in another precision first differs from the FP32 graph.

Tensors have the same names in both; a conversion adds tensors with the name of the converted tensor and a suffix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..backends.plan import Runner
from ..backends.session import Arrays
from ..graphs.probe import Node, write_probe
from ..graphs.quantise import LEVELS
from ..graphs.sixteen_bit import FP16_MAX
from ..nvidia.tensorrt import TARGETS
from .probe import run_probe

#: Suffixes of tensors that the conversions to 16 bit and to INT8 add.
_ADDED = ("_dequantised", "_16", "_32")


def variant_difference(runner: Runner, images: Arrays) -> str:
    """Return one sentence with the first node that exceeds the limit, or with the reason why none is found.

    The runner failed in another precision than fp32, on one golden image, by the name of the input. An engine's inner
    tensors cannot be read, so its graph is run on the CPU.

    Raises:
        UsageError: the bundle has no graph of this precision, or the ``onnx`` package is not installed.
    """
    bundle, precision = runner.bundle, runner.precision
    limit = bundle.task.limits(precision).score
    is_engine = runner.backend in TARGETS
    on_cpu = "openvino" if precision == "bf16" else "onnxruntime"
    runs_on = on_cpu if is_engine else runner.backend
    with TemporaryDirectory() as folder:
        plain, variant = Path(folder) / "fp32.onnx", Path(folder) / "variant.onnx"
        write_probe(bundle.graph, plain)
        nodes = write_probe(bundle.graph_for(precision), variant)
        expected = run_probe(plain, "onnxruntime", images)
        got = run_probe(variant, runs_on, images)
        found = first_beyond_fp16(nodes, expected, half_tensors(variant)) or first_departure(
            nodes, expected, got, limit, int8_ranges(variant)
        )
    if is_engine:
        where = f"the engine's inner tensors cannot be read; its {precision} graph on {runs_on}"
        return f"{where}: {found or 'no tensor exceeds the limit, so the engine is wrong'}"
    return found or (
        f"no tensor of the {precision} graph is off by more than {limit:g} of its range: errors add up over "
        "many nodes, or the fault is only in the fused graph, or FP32 itself fails"
    )


def first_beyond_fp16(nodes: Sequence[Node], expected: Arrays, half: frozenset[str]) -> str | None:
    """Return a sentence on the first FP16 tensor with an FP32 value beyond FP16's range, or None."""
    for node in nodes:
        for name in node.output:
            reference = _reference(name, expected)
            if name not in half or reference is None:
                continue
            peak = float(np.abs(expected[reference]).max(initial=0.0))
            if not peak <= FP16_MAX:
                return f"{node.label} reaches {peak:.3g}, above FP16's {FP16_MAX:g}: keep it in FP32"
    return None


def first_departure(
    nodes: Sequence[Node], expected: Arrays, got: Arrays, limit: float, ranges: Mapping[str, float]
) -> str | None:
    """Return a sentence on the first node with an output that differs from the FP32 graph's, or None.

    ``nodes`` and ``got`` are those of the variant; ``limit`` is the largest error as a fraction of the tensor's range
    in FP32, and ``ranges`` comes from :func:`int8_ranges`.
    """
    makers = {name: node.label for node in nodes for name in node.output}
    for node in nodes:
        for name in node.output:
            reference = _reference(name, expected)
            if reference is None or name not in got or got[name].shape != expected[reference].shape:
                continue
            wanted = expected[reference]
            error = float(np.abs(got[name] - wanted).max(initial=0.0)) / (float(np.ptp(wanted)) or 1.0)
            if error <= limit:
                continue
            off = f"off by {error:.2g} of its range, the limit is {limit:g}"
            if name in ranges:
                peak = float(np.abs(wanted).max())
                made = makers.get(reference, reference)
                return (
                    f"INT8 first differs from FP32 after {made}: its output is {off}; it reaches {peak:.3g} and int8 "
                    f"holds {ranges[name]:.3g}, so calibrate again with images like the goldens"
                )
            return f"it first differs from FP32 at {node.label}, {off}"
    return None


def half_tensors(probe: Path) -> frozenset[str]:
    """Return the names of the FP16 tensors that nodes of a graph output."""
    import onnx

    values = onnx.load(probe).graph.value_info
    return frozenset(v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16)


def int8_ranges(probe: Path) -> dict[str, float]:
    """Return the largest value that int8 holds in each Q/DQ pair of activations, by the pair's output."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(probe).graph
    scales = {weight.name: weight for weight in graph.initializer}
    pairs = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
    return {
        node.output[0]: LEVELS * float(numpy_helper.to_array(scales[pairs[node.input[0]]]))
        for node in graph.node
        if node.op_type == "DequantizeLinear" and pairs.get(node.input[0]) in scales
    }


def _reference(name: str, expected: Arrays) -> str | None:
    """Return the FP32 graph's name of a tensor, or None if it has no such tensor."""
    if name in expected:
        return name
    stripped = next((name.removesuffix(end) for end in _ADDED if name.endswith(end)), name)
    return stripped if stripped in expected else None
