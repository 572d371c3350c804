"""The kinds of person detectors, and how one is opened."""

from __future__ import annotations

from pathlib import Path

from ..backends.plan import choose, open_graph
from ..backends.self_check import self_check as check_here
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.tasks import PERSONS
from ..core.boxes import check_threshold
from ..core.errors import UsageError
from .detector import DetectorKind, NetworkDetector, unknown_network
from .peaks import PEAKS
from .yolox import YOLOX

#: Every kind, in the order in which a network is asked whether it is one.
KINDS: tuple[DetectorKind, ...] = (YOLOX, PEAKS)

#: The detector that comes with the package: its name, and its graph.
SHIPPED_NAME = "person_lite"
SHIPPED = Path(__file__).parent.parent / "assets" / SHIPPED_NAME / f"{SHIPPED_NAME}.onnx"


def detector_graph(detector: Path | str) -> Path:
    """Return the ONNX file of a detector: the one given, or that of ``person_lite``, which comes with the package."""
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
        precision: of a bundle, as in :func:`edgepose.load`. A file has none to choose from.
        threshold: least score of a person, from 0 to 1; None for the kind's own.
        self_check: whether to replay a bundle's goldens on a machine where that was not done yet.

    Raises:
        UsageError: the detector cannot be loaded on this backend or in this precision, is of no known kind, or the
            threshold is no score.
        CheckError: a bundle's network does not give its golden persons here.
    """
    if threshold is not None:
        check_threshold(threshold, "the detector's threshold")
    if str(detector) != SHIPPED_NAME and Path(detector).is_dir():
        return _open_bundle(open_bundle(detector), backend, precision, threshold, self_check)
    if precision != "auto":
        raise UsageError(
            f"detector {detector} is a single graph, got precision {precision}: leave it out, or make a bundle with "
            "edgepose import"
        )
    session = open_graph(detector_graph(detector), "onnxruntime" if backend == "auto" else backend)
    kind = next((kind for kind in KINDS if kind.recognise(session) is not None), None)
    if kind is None:
        session.close()
        error = unknown_network(session, "; or ".join(kind.expects for kind in KINDS))
        raise UsageError(f"detector {detector}: {error}")
    return NetworkDetector(session, kind, threshold)


def open_finder(
    detector: Path | str,
    backend: str = "auto",
    *,
    precision: str = "auto",
    threshold: float | None = None,
    self_check: bool = True,
) -> NetworkDetector | None:
    """Open a detector as :func:`open_detector` does, or return None for ``none``, where one person is followed.

    Raises:
        UsageError: also where there is no detector that the other arguments could be for.
    """
    if str(detector) != "none":
        return open_detector(detector, backend, precision=precision, threshold=threshold, self_check=self_check)
    given = {"backend": (backend, "auto"), "precision": (precision, "auto"), "threshold": (threshold, None)}
    for what, (value, default) in given.items():
        if value != default:
            raise UsageError(
                f"got the {what} {value} for a detector, but no detector: name one, or leave the {what} out"
            )
    return None


def _open_bundle(
    bundle: Bundle, backend: str, precision: str, threshold: float | None, self_check: bool
) -> NetworkDetector:
    bundle.require(PERSONS)
    runner = choose(bundle, backend, precision)
    session = runner.open()
    try:
        if self_check:
            check_here(runner, session)
        # Every bundle's graph decodes its boxes itself; what its scores mean is that of the network inside.
        inside = next((kind for kind in KINDS if kind.name == bundle.manifest.model), PEAKS)
        detector = NetworkDetector(session, PEAKS, inside.threshold if threshold is None else threshold)
        detector.engine = str(runner)
        return detector
    except Exception:
        session.close()
        raise
