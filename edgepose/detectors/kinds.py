"""All kinds of person detectors, and functions that open a detector."""

from __future__ import annotations

from pathlib import Path

from ..backends.plan import choose, open_graph
from ..backends.self_check import open_checked
from ..bundle.bundle import open_bundle
from ..bundle.tasks import PERSONS
from ..core.boxes import check_threshold
from ..core.errors import UsageError
from .detector import DetectorKind, NetworkDetector, unknown_network
from .peaks import PEAKS
from .yolov3 import YOLOV3
from .yolox import YOLOX

#: Every kind, in the order in which a network is tested for them.
KINDS: tuple[DetectorKind, ...] = (YOLOX, YOLOV3, PEAKS)

#: For a network that takes the size of one picture and chooses among its boxes, such as the YOLOv3 of ONNX's model zoo.
_ADVICE = (
    "; a network that takes more than pictures cannot run in batches: export it without non-maximum suppression, or "
    "YOLOv3's weights with edgepose export yolov3 --weights yolov3.weights"
)

#: Name and graph of the detector that comes with the package.
SHIPPED_NAME = "person_lite"
SHIPPED = Path(__file__).parent.parent / "assets" / SHIPPED_NAME / f"{SHIPPED_NAME}.onnx"


def detector_graph(detector: Path | str) -> Path:
    """Return the ONNX file of a detector: the given one, or the shipped one for ``person_lite``."""
    return SHIPPED if str(detector) == SHIPPED_NAME else Path(detector)


def open_detector(
    detector: Path | str,
    backend: str = "auto",
    *,
    precision: str = "auto",
    threshold: float | None = None,
    self_check: bool = True,
) -> NetworkDetector:
    """Open a detector; the kind of an ONNX file is recognised by its inputs and outputs.

    Args:
        detector: a bundle from ``edgepose import``, an ONNX file, or ``person_lite`` for the shipped detector.
        backend: for a bundle as in :func:`edgepose.load`; for a file ``onnxruntime`` (also ``auto``) or ``openvino``.
        precision: for a bundle as in :func:`edgepose.load`; must be ``auto`` for a file.
        threshold: least score of a person, from 0 to 1; None for the kind's default.
        self_check: replay a bundle's goldens if that was not done on this machine yet.

    Raises:
        UsageError: the detector cannot be loaded on this backend or in this precision, is of an unknown kind, or the
            threshold is not within 0 to 1.
        CheckError: a bundle's network does not reproduce its goldens here.
    """
    if not str(detector):
        raise UsageError(f"the detector is empty: expected a bundle, an ONNX file or {SHIPPED_NAME}")
    if threshold is not None:
        check_threshold(threshold, "the detector's threshold")
    if str(detector) != SHIPPED_NAME and Path(detector).is_dir():
        bundle = open_bundle(detector)
        bundle.require(PERSONS)
        if threshold is None:
            # Graphs of bundles decode their boxes (PEAKS), but their scores need the threshold of the imported network.
            threshold = next((kind.threshold for kind in KINDS if kind.name == bundle.manifest.model), PEAKS.threshold)
        runner = choose(bundle, backend, precision)
        opened = open_checked(runner, lambda session: NetworkDetector(session, PEAKS, threshold), self_check)
        opened.engine = str(runner)
        return opened
    if precision != "auto":
        raise UsageError(
            f"detector {detector} is an ONNX file with one precision, got precision {precision}: leave it out, or make "
            "a bundle with edgepose import"
        )
    session = open_graph(detector_graph(detector), "onnxruntime" if backend == "auto" else backend)
    kind = next((kind for kind in KINDS if kind.recognise(session) is not None), None)
    if kind is None:
        session.close()
        error = unknown_network(session, "; or ".join(kind.expects for kind in KINDS))
        raise UsageError(f"detector {detector}: {error}{_ADVICE if len(session.inputs) > 1 else ''}")
    return NetworkDetector(session, kind, threshold)


def open_finder(
    detector: Path | str,
    backend: str = "auto",
    precision: str = "auto",
    threshold: float | None = None,
    self_check: bool = True,
) -> NetworkDetector | None:
    """Open a detector as :func:`open_detector` does; for ``none``, return None, and refuse any other argument."""
    if str(detector) != "none":
        return open_detector(detector, backend, precision=precision, threshold=threshold, self_check=self_check)
    given = {"backend": (backend, "auto"), "precision": (precision, "auto"), "threshold": (threshold, None)}
    for what, (value, default) in given.items():
        if value != default:
            raise UsageError(f"got the detector {what} {value} without a detector: name one, or leave the {what} out")
    return None
