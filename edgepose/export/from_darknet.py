"""Make a person detector's bundle from YOLOv3's weights: a graph that decodes its boxes, and goldens from PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.bundle import Bundle, check_replaceable, replace_bundle
from ..bundle.contract import SCORES
from ..bundle.goldens import Goldens
from ..bundle.manifest import CHECKPOINT, GOLDENS, Manifest
from ..bundle.tasks import PERSONS
from ..core.boxes import PERSON_SCORE
from ..core.errors import UsageError
from ..core.files import staging_folder
from ..core.geometry import Size
from ..core.machine import versions
from ..core.yolov3 import STRIDES
from ..graphs.module_names import name_modules
from ..models.checkpoint import ModelSpec, save_checkpoint
from ..models.reference import make_goldens, read_yolov3
from ..models.yolov3 import PersonGraph, YOLOv3, load_darknet
from .from_onnx import check_same, golden_pictures
from .to_onnx import require_exporter, save_graph, simplify, trace

if TYPE_CHECKING:
    import onnx

#: The size of the public weights' configuration, (height, width).
INPUT_SIZE = (416, 416)


def export_yolov3(output: Path, weights: Path | None, *, input_size: Size | None = None) -> Bundle:
    """Make a detector's bundle from YOLOv3's weights.

    Args:
        output: bundle folder, as for :func:`edgepose.export.from_checkpoint.export`.
        weights: darknet's ``yolov3.weights``, of COCO's 80 classes, or the ``checkpoint.safetensors`` of such a bundle.
        input_size: (height, width) of the pictures, multiples of 32; None for 416x416.

    Raises:
        UsageError: there are no weights, they cannot be read, are of another network or find no person; the size does
            not fit; or the output is not a detector's bundle.
        CheckError: the graph does not find the same persons as PyTorch.
    """
    size = input_size or INPUT_SIZE
    if any(side <= 0 or side % STRIDES[0] for side in size):
        raise UsageError(f"input size {size[0]}x{size[1]}: both sides must be positive multiples of {STRIDES[0]}")
    if weights is None:
        raise UsageError("yolov3 without weights finds nobody, so nothing can verify it: give --weights yolov3.weights")
    require_exporter()
    check_replaceable(output, PERSONS)
    network = _read(weights)
    with staging_folder(output) as folder:
        goldens = make_goldens(PersonGraph(network), golden_pictures(size), PERSONS)
        _check_goldens(goldens, weights)
        manifest = Manifest(
            name=output.resolve().name.removesuffix(".edgepose"),
            model="yolov3",
            skeleton="",
            input_size=size,
            options={"boxes": goldens.outputs[SCORES].shape[1]},
            decode="boxes",
            made_with=versions("python", "edgepose", "torch", "onnx", "onnxsim", "numpy"),
        )
        graph = folder / manifest.graph_name("fp32")
        save_graph(_make_graph(network, size), graph)
        check_same(graph, goldens, "PyTorch")
        goldens.save(folder / GOLDENS)
        options = {"classes": network.classes, "width": network.width}
        save_checkpoint(folder / CHECKPOINT, network, ModelSpec("yolov3", "", size, options))
        return replace_bundle(output, manifest, folder)


def _read(weights: Path) -> YOLOv3:
    if weights.suffix == ".safetensors":
        return read_yolov3(weights).eval()
    network = YOLOv3()
    load_darknet(network, weights)
    return network.eval()


def _check_goldens(goldens: Goldens, weights: Path) -> None:
    if not all(np.isfinite(values).all() for values in goldens.outputs.values()):
        raise UsageError(f"weights {weights} give boxes that are not finite: expected weights of YOLOv3")
    best = goldens.outputs[SCORES].max()
    if best < PERSON_SCORE:
        raise UsageError(
            f"weights {weights} find no person in photos of two (best score {best:.2g}, expected {PERSON_SCORE:g}): "
            "expected weights that were trained on COCO's classes, a person first"
        )


def _make_graph(network: YOLOv3, size: Size) -> onnx.ModelProto:
    graph = PersonGraph(network).eval()
    exported = trace(graph, size, graph.outputs)
    simplified = simplify(exported)
    name_modules(simplified, exported)
    return simplified
