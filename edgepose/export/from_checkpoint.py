"""Make a bundle from a checkpoint: graph, goldens, manifest; YOLOv3's are in :mod:`edgepose.export.from_darknet`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle, check_replaceable, replace_bundle
from ..bundle.manifest import CHECKPOINT, GOLDENS, Manifest
from ..bundle.tasks import POSE
from ..core.errors import UsageError
from ..core.files import staging_folder
from ..core.geometry import crop_regions, region_affine, warp_crop
from ..core.machine import versions
from ..core.sample_photos import PEOPLE, load_photo
from ..models.checkpoint import ModelSpec, load_weights, read_spec, save_checkpoint
from ..models.pose_graph import PoseGraph
from ..models.reference import make_goldens
from .from_darknet import export_yolov3
from .to_onnx import export_graph

#: Views of each photo's person in the golden crops: rotation in degrees, factor on the crop, mirrored.
GOLDEN_VIEWS = ((0.0, 1.0, False), (0.0, 1.0, True), (20.0, 1.2, False), (-15.0, 0.8, True))


def export(
    model: str | None,
    output: Path,
    *,
    weights: Path | None = None,
    skeleton: str | None = None,
    input_size: tuple[int, int] | None = None,
    with_bones: bool = False,
    tell: Callable[[str], object] | None = None,
) -> Bundle:
    """Make a bundle from a network and its weights.

    Args:
        model: network name; may be None if ``weights`` is a checkpoint written by edgepose, which contains it.
            ``yolov3`` gives a detector's bundle, see :func:`edgepose.export.from_darknet.export_yolov3`.
        output: bundle folder, which is made or replaced. An old bundle stays if the export fails; otherwise its engines
            and reports, which belong to the old weights, are removed.
        weights: checkpoint (``.safetensors`` or ``.pth``); without it the weights are drawn from seed 0, and
            ``trained`` is False in the manifest.
        skeleton: skeleton id; None for the checkpoint's, or ``coco17`` if it contains none.
        input_size: (height, width) of the crops; None for the checkpoint's, or (256, 192) if it contains none.
        with_bones: also output DITN's bone maps, or SG-HRNet's segmentation maps, to look at.
        tell: gets one line: which weights of the file were loaded, and which were not.

    Raises:
        UsageError: the model is unknown, the weights cannot be read or do not fit, an argument contradicts the
            checkpoint, the network has no such maps, or the output is not a bundle.
        CheckError: the simplified graph differs from the exported one.
    """
    if model == "yolov3":
        if skeleton is not None or with_bones:
            option = "--with-bones" if skeleton is None else "--skeleton"
            raise UsageError(f"yolov3 finds persons and has neither skeleton nor bones: leave {option} out")
        return export_yolov3(output, weights, input_size=input_size)
    spec = _decide_spec(model, weights, skeleton, input_size)
    if spec.model == "yolov3":
        return export_yolov3(output, weights, input_size=spec.input_size)
    network = spec.build()
    if weights is not None:
        report = load_weights(network, weights)
        if tell is not None:
            tell(f"{weights}: {report}")
    graph = PoseGraph(network, with_maps=with_bones)
    if with_bones and len(graph.outputs) == 2:
        raise UsageError(f"{spec.model} makes no bone or segmentation maps: leave with_bones (--with-bones) out")
    check_replaceable(output, POSE)
    with staging_folder(output) as folder:
        save_checkpoint(folder / CHECKPOINT, network, spec)
        export_graph(network, spec.input_size, folder / POSE.graph, with_maps=with_bones)
        make_goldens(graph, golden_crops(spec.input_size), POSE).save(folder / GOLDENS)
        manifest = Manifest(
            output.resolve().name.removesuffix(".edgepose"),
            *(spec.model, spec.skeleton, spec.input_size, spec.options),
            trained=weights is not None,
            made_with=versions("python", "edgepose", "torch", "onnx", "onnxsim", "numpy"),
        )
        return replace_bundle(output, manifest, folder)


def _decide_spec(
    model: str | None, weights: Path | None, skeleton: str | None, input_size: tuple[int, int] | None
) -> ModelSpec:
    known = read_spec(weights) if weights is not None else None
    if known is not None:
        if model not in (None, known.model):
            raise UsageError(f"{weights} holds the weights of {known.model}, got {model}: leave the model out")
        for what, option, asked, is_known in (
            ("skeleton", "--skeleton", skeleton, known.skeleton),
            ("input size", "--size", input_size, known.input_size),
        ):
            if asked not in (None, is_known):
                raise UsageError(f"{weights} was trained for {what} {is_known}, got {asked}: leave {option} out")
        return known
    if model is None:
        why = "no model was named" if weights is None else f"{weights} does not contain the name of its model"
        raise UsageError(f"{why}: expected edgepose export MODEL, such as ditn_lite")
    return ModelSpec(model, skeleton or "coco17", input_size or (256, 192))


def golden_crops(input_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return (N, H, W, 3) uint8 RGB crops of the public-domain photos, in the views of :data:`GOLDEN_VIEWS`."""
    crops = []
    for name, box in PEOPLE.items():
        image, region = load_photo(name), crop_regions(box, input_size)[0]
        for rotation, factor, mirror in GOLDEN_VIEWS:
            view = (region[0], region[1], region[2] * factor, region[3] * factor)
            matrix = region_affine(view, input_size, rotation=rotation, mirror=mirror)
            crops.append(warp_crop(image, matrix, input_size))
    return np.stack(crops)
