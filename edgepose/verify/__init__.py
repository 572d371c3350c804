"""Verify: replay the goldens of a bundle on every engine, and say where a wrong one first departs from PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from ..bundle import Bundle, Goldens
from ..errors import UsageError
from ..runtime.backends import choose_backends
from .checks import Check, check_backend, crop_errors, read_goldens
from .locate import first_difference
from .report import VerifyReport

__all__ = ["VerifyReport", "verify"]


def verify(bundle: Bundle, backends: Sequence[str] | None = None) -> VerifyReport:
    """Replay a bundle's goldens one by one and all at once, and compare with PyTorch.

    Args:
        bundle: an opened bundle.
        backends: names of :data:`edgepose.runtime.backends.BACKENDS`; None or ``["all"]`` takes those that can run
            here and names the others in ``skipped``.

    Raises:
        UsageError: the goldens are missing or damaged, or a backend that was named cannot run here.
    """
    goldens = read_goldens(bundle)
    runnable, skipped = choose_backends(bundle, backends)
    checks = tuple(check for backend in runnable for check in check_backend(bundle, goldens, backend))
    differences = {}
    for check in checks:
        if check.problem and check.outputs and check.backend not in differences:
            crop = int(crop_errors(goldens, check.outputs)[1].argmax())
            differences[check.backend] = _locate(bundle, check, goldens, crop)
    return VerifyReport(bundle, goldens, checks, skipped, differences)


def _locate(bundle: Bundle, check: Check, goldens: Goldens, crop: int) -> str:
    try:
        return first_difference(bundle, check.backend, check.precision, goldens, crop)
    except UsageError as error:  # the verdict stands without its cause, such as on a device without onnx
        return f"the first difference was not searched for: {error}"
