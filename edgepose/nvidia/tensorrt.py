"""Import TensorRT or TensorRT-RTX, and record their log messages."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..core.errors import UsageError, missing_extra

#: Target to its Python module.
_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
TARGETS = tuple(_MODULES)


def load_target(target: str) -> Any:
    """Import a target's module, ``tensorrt`` or ``tensorrt_rtx``; edgepose uses only what both APIs share.

    Raises:
        UsageError: the target is unknown, or its module is not installed or cannot be imported.
    """
    if target not in _MODULES:
        raise UsageError(f"unknown engine target {target!r}: expected one of {', '.join(TARGETS)}")
    module = _MODULES[target]
    if find_spec(module) is None:
        raise missing_extra(module)
    try:
        return import_module(module)
    except Exception as error:  # missing libraries and unsuitable drivers raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"import {module} fails: {reason}: see edgepose doctor") from error


def recording_logger(trt: Any, threshold: str) -> Any:
    """Make a logger that keeps messages of severity ``threshold`` (``VERBOSE`` to ``ERROR``) and worse; prints none.

    Its ``messages`` are (severity name, text), in order; ``text()`` returns them all, ``reason()`` the first error.
    The logger must outlive every object made with it.
    """
    limit = int(getattr(trt.ILogger.Severity, threshold))

    class RecordingLogger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 refuses super().__init__() of a class with a trampoline
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= limit:
                self.messages.append((severity.name, message))

        def reason(self) -> str:
            errors = (text for severity, text in self.messages if severity in ("ERROR", "INTERNAL_ERROR"))
            return " ".join(next(errors, "no reason was logged").split())

        def text(self) -> str:
            return "".join(f"[{severity}] {message}\n" for severity, message in self.messages)

    return RecordingLogger()
