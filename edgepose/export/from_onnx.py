"""Make a bundle from a detector's ONNX file: a graph with the contract around its network, and goldens from the file.

The graph takes uint8 RGB pictures, letterboxed to the top left, in batches of any size, and returns ``boxes``
(N, K, 4), xyxy in pixels of the picture, and ``scores`` (N, K), all of them before non-maximum suppression.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..backends.plan import open_graph
from ..bundle.bundle import Bundle, check_replaceable, replace_bundle
from ..bundle.contract import BOXES, IMAGES, SCORES
from ..bundle.goldens import Goldens, verdict
from ..bundle.manifest import GOLDENS, Manifest
from ..bundle.tasks import PERSONS
from ..core.boxes import PERSON_SCORE
from ..core.errors import CheckError, UsageError, last_line, missing_extra
from ..core.files import staging_folder
from ..core.geometry import Size
from ..core.images import letterbox
from ..core.machine import versions
from ..core.sample_photos import PEOPLE, load_photo
from ..detectors.detector import NetworkDetector
from ..detectors.kinds import detector_graph, open_detector
from ..plugins.onnx_function import OPSET
from .wrap import WRAPS

if TYPE_CHECKING:
    import onnx


def import_detector(detector: Path | str, output: Path) -> Bundle:
    """Make a bundle from a person detector, for ``build``, ``calibrate``, ``verify`` and ``bench``.

    ``detector`` is the ONNX file of a YOLOX or YOLOv3, or of a network that decodes its boxes itself, such as
    ``person_lite``; ``output`` is the bundle folder, as for :func:`edgepose.export.from_checkpoint.export`.

    Raises:
        UsageError: the file is of an unknown kind or finds no person, it cannot be converted to the package's opset or
            to a dynamic batch, ``onnx`` or ``onnxsim`` is not installed, or the output is not a detector's bundle.
        CheckError: the new graph does not find the same persons as the file.
    """
    try:
        import onnx
        import onnxsim  # noqa: F401  (used later: refuse before any work)
    except ImportError as error:
        raise missing_extra(error.name or "onnx") from error
    check_replaceable(output, PERSONS)
    file = detector_graph(detector)
    if file.is_dir():
        raise UsageError(f"{file} is a folder: expected the ONNX file of a detector")
    with closing(open_detector(file)) as opened, staging_folder(output) as folder:
        goldens, size, kind = make_goldens(opened, file), opened.size, opened.kind.name
        manifest = Manifest(
            name=output.resolve().name.removesuffix(".edgepose"),
            model=kind,
            skeleton="",
            input_size=size,
            options={"boxes": goldens.outputs[SCORES].shape[1]},
            decode="boxes",
            made_with=versions("python", "edgepose", "onnx", "onnxsim", "onnxruntime", "numpy"),
        )
        graph = folder / manifest.graph_name("fp32")
        onnx.save(_make_graph(file, kind, size), graph)
        check_same(graph, goldens, "the file")
        goldens.save(folder / GOLDENS)
        return replace_bundle(output, manifest, folder)


def make_goldens(detector: NetworkDetector, file: Path) -> Goldens:
    """Return a detector's outputs for :func:`golden_pictures`; raise UsageError for NaN or no person."""
    pictures, found = golden_pictures(detector.size), []
    for picture in pictures:
        outputs = detector.infer(detector.prepare(picture))
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise UsageError(f"{file} gives NaN or infinity: check its weights")
        with np.errstate(over="ignore", invalid="ignore"):
            found.append(detector.kind.decode(outputs, detector.size, -np.inf))
        if not (np.abs(found[-1][0]) < np.finfo(np.float32).max).all():
            raise UsageError(f"the boxes of {file} are not finite: export it without --decode_in_inference")
    boxes, scores = (np.stack(parts).astype(np.float32) for parts in zip(*found, strict=True))
    if not scores.max() >= PERSON_SCORE:
        raise UsageError(
            f"{file} finds no person in photos of two (best score {scores.max():.2g}, expected {PERSON_SCORE:g}): "
            "expected a YOLOX of BGR from 0 to 255 or a YOLOv3 of RGB from 0 to 1, with persons as class 0, or a "
            "network that decodes its boxes itself"
        )
    return Goldens(pictures, {BOXES: boxes, SCORES: scores}, PERSONS)


def golden_pictures(size: Size) -> NDArray[np.uint8]:
    """Return (N, h, w, 3) uint8 RGB: the public-domain photos alone, side by side, and tiled, each also mirrored."""
    photos = [load_photo(name) for name in PEOPLE]
    together = np.concatenate(photos, axis=1)
    crowd = np.tile(together, (3, 2, 1))
    views = [mirrored for picture in (*photos, together, crowd) for mirrored in (picture, picture[:, ::-1])]
    return np.stack([letterbox(np.ascontiguousarray(view), size) for view in views])


def _make_graph(file: Path, kind: str, size: Size) -> onnx.ModelProto:
    """Return the file's network with the inputs and outputs of a bundle."""
    import onnx
    import onnxsim

    try:
        model = _with_batches(onnxsim.simplify(_read(file))[0])
        model, _ = onnxsim.simplify(WRAPS[kind](model, size) if kind in WRAPS else model)
        _name_nodes(model)
        onnx.checker.check_model(model, full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UsageError(f"{file} cannot be put into a bundle's graph: {last_line(error)}") from error
    return model


def _read(file: Path) -> onnx.ModelProto:
    """Read the graph of a file, convert it to the package's opset, and remove weights from its inputs."""
    import onnx
    from onnx import version_converter

    model = onnx.load(file)
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    version = next((opset.version for opset in model.opset_import if opset.domain == ""), 0)
    if version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except RuntimeError as error:
        raise UsageError(
            f"{file} has opset {version} and cannot be converted to {OPSET} ({last_line(error)}): export it again "
            "from PyTorch"
        ) from error


def _with_batches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Change a simplified graph with a batch of 1, in place, to a dynamic batch, and return it."""
    from onnx import numpy_helper

    if model.graph.input[0].type.tensor_type.shape.dim[0].dim_value != 1:
        return model
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for weight in model.graph.initializer:
        shape = numpy_helper.to_array(weight)
        if weight.name in shapes and shape.size > 1 and shape[0] == 1:
            # In a Reshape, 0 keeps the side of the input.
            weight.CopyFrom(numpy_helper.from_array(np.concatenate([[0], shape[1:]]), weight.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    return model


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a unique name, in place: precisions are chosen by name."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{number}"
        seen.add(node.name)


def check_same(graph: Path, goldens: Goldens, reference: str) -> None:
    """Refuse a graph that does not reproduce its reference's goldens, which were computed one by one, in one batch."""
    with closing(open_graph(graph)) as session:
        try:
            outputs = session.run({IMAGES: goldens.images})
        except UsageError as error:
            raise UsageError(
                f"the file takes one picture per call, and cannot be changed to take more ({error}): export it from "
                "PyTorch with a dynamic batch"
            ) from error
    problem = verdict(goldens, outputs, "fp32")[1]
    if problem:
        raise CheckError(f"the bundle's graph does not find the same persons as {reference}: {problem}")
