"""A bundle with the same network in other precisions, made without calibration crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from edgepose.backends.plan import open_graph
from edgepose.bundle.bundle import Bundle, replace_files
from edgepose.bundle.goldens import read_goldens
from edgepose.graphs.quantise import place, quantisable, quantise
from edgepose.graphs.sixteen_bit import to_16_bit

VARIANTS = ("fp16", "bf16", "int8", "int8+fp16")


def largest_values(bundle: Bundle) -> dict[str, float]:
    """By tensor, the largest absolute value over the goldens, from ONNX Runtime."""
    model = onnx.load(bundle.graph)
    known = {value.name for value in model.graph.output}
    names = {name for node in model.graph.node if node.op_type != "Constant" for name in node.output} - known
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in sorted(names))
    probe = bundle.path / ".probe.onnx"
    onnx.save(model, probe)
    session = open_graph(probe)
    values = session.run({"images": read_goldens(bundle).images})
    session.close()
    probe.unlink()
    return {name: float(np.abs(value).max(initial=0)) for name, value in values.items() if value.dtype == np.float32}


def make_graphs(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    """The graph in every one of VARIANTS; the ranges of INT8 are those of the goldens."""
    model = onnx.load(bundle.graph)
    int8 = quantise(model, place(model, [node.name for node in quantisable(model)]), largest_values(bundle))
    return {
        "fp16": to_16_bit(model, "fp16"),
        "bf16": to_16_bit(model, "bf16"),
        "int8": int8,
        "int8+fp16": to_16_bit(int8, "fp16"),
    }


def put_graphs(bundle: Bundle, graphs: dict[str, onnx.ModelProto]) -> Bundle:
    """Save graphs in a bundle, hashes and all."""
    staged: dict[str, Path] = {}
    for precision, model in graphs.items():
        staged[bundle.manifest.graph_name(precision)] = file = bundle.path / f".new-{precision}.onnx"
        onnx.save(model, file)
    return replace_files(bundle, staged)


def with_variants(bundle: Bundle) -> Bundle:
    """The bundle, with a graph of every one of VARIANTS."""
    return put_graphs(bundle, make_graphs(bundle))
