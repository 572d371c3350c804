"""Person detectors: a picture in, boxes of persons out."""

from __future__ import annotations

from pathlib import Path

from ..backends.plan import choose, open_graph
from ..backends.self_check import self_check as check_here
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.tasks import PERSONS
from ..core.errors import UsageError
from .detector import NetworkDetector
from .peaks import PeakDetector
from .yolox import PEAK_THRESHOLD, YOLOX_THRESHOLD, YoloxDetector

#: The detector that comes with the package: its name, and its graph.
SHIPPED_NAME = "person_lite"
SHIPPED = Path(__file__).parent.parent / "assets" / SHIPPED_NAME / f"{SHIPPED_NAME}.onnx"


def detector_graph(detector: Path | str) -> Path:
    """The ONNX file of a detector: the one given, or that of ``person_lite``, which comes with the package."""
    return SHIPPED if str(detector) == SHIPPED_NAME else Path(detector)


def open_detector(
    detector: Path | str,
    backend: str = "auto",
    *,
    precision: str = "auto",
    threshold: float | None = None,
    self_check: bool = True,
) -> NetworkDetector:
    """Open a detector; the kind of a file is seen from its inputs and outputs.

    Args:
        detector: a bundle that ``edgepose import`` made, an ONNX file, or ``person_lite`` for the one that comes with
            the package.
        backend: of a bundle as in :func:`edgepose.load`, of a file ``onnxruntime``, which is also its ``auto``, or
            ``openvino``.
        precision: of a bundle, as in :func:`edgepose.load`.
        threshold: least score of a person; None for the kind's own.
        self_check: whether to replay a bundle's goldens on a machine where that was not done yet.

    Raises:
        UsageError: the detector cannot be loaded on this backend, or is of no known kind.
        CheckError: a bundle's network does not give its golden persons here.
    """
    if str(detector) != SHIPPED_NAME and Path(detector).is_dir():
        return _open_bundle(open_bundle(detector), backend, precision, threshold, self_check)
    session = open_graph(detector_graph(detector), "onnxruntime" if backend == "auto" else backend)
    decodes = {spec.name for spec in session.outputs} == {"boxes", "scores"}
    options = {} if threshold is None else {"threshold": threshold}
    try:
        return PeakDetector(session, **options) if decodes else YoloxDetector(session, **options)
    except UsageError as error:
        session.close()
        other = "" if decodes else "; or a network that decodes its boxes itself, with the outputs boxes and scores"
        raise UsageError(f"detector {detector}: {error}{other}") from None


def _open_bundle(
    bundle: Bundle, backend: str, precision: str, threshold: float | None, self_check: bool
) -> NetworkDetector:
    bundle.require(PERSONS)
    runner = choose(bundle, backend, precision)
    session = runner.open()
    try:
        if self_check:
            check_here(runner, session)
        own = YOLOX_THRESHOLD if bundle.manifest.model == "yolox" else PEAK_THRESHOLD
        detector = PeakDetector(session, own if threshold is None else threshold)
        detector.engine = str(runner)
        return detector
    except Exception:
        session.close()
        raise
