"""The detector's weights to a portable ONNX graph."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from edgepose.core.errors import CheckError, UsageError, missing_extra
from edgepose.core.files import atomic_path
from edgepose.core.geometry import Size
from edgepose.models.person_lite import DetectorGraph, PersonLite

OPSET = 18
#: How far scores may be from PyTorch's: the same float32 sums in another order.
_LIMIT = 1e-4


def export_detector(network: PersonLite, size: Size, path: Path) -> None:
    """Write the network as FP32 ONNX: see :class:`DetectorGraph`; N is dynamic, height and width are fixed.

    Args:
        network: in eval mode.
        size: (height, width) of the input, multiples of 32.
        path: the file to write.

    Raises:
        UsageError: onnx, onnxscript or onnxsim is not installed, the size does not fit, or ``path`` cannot be written.
        CheckError: the graph does not give PyTorch's scores.
    """
    if min(size) < 32 or size[0] % 32 or size[1] % 32:
        raise UsageError(f"size {size[0]}x{size[1]}: expected multiples of 32")
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter needs it and says so less clearly
        import onnxsim
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "export") from error
    graph = DetectorGraph(network).eval()
    # Two samples, because the exporter would take a batch of one as a constant.
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own internals; a user can act on none of it
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}},
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        model, _ = onnxsim.simplify(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    _check_scores(model.SerializeToString(), graph, images)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


def _check_scores(model: bytes, graph: DetectorGraph, images: torch.Tensor) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (got,) = session.run(["scores"], {"images": images.numpy()})
    with torch.inference_mode():
        _, want = graph(images)
    error = float(np.abs(got - want.numpy()).max())
    if not error <= _LIMIT:
        raise CheckError(f"the exported graph's scores are {error:.1e} off PyTorch's (limit {_LIMIT:.0e})")
