"""The command ``doctor``: list what is installed, what can run, and how to install what is missing."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .backends.plan import BACKENDS, unavailable
from .core.errors import UsageError, install_line
from .core.machine import jetson_release
from .core.tables import text_table
from .nvidia import device
from .nvidia.tensorrt import TARGETS
from .plugins.library import find_library
from .plugins.registration import form_for

OK, MISSING, BROKEN, UNUSABLE = "ok", "missing", "broken", "cannot run"

#: Modules that make bundles, besides those of the backends.
_TOOLS = ("onnx", "onnxscript", "onnxsim")


@dataclass(frozen=True)
class Finding:
    """One row of the report: a module or device, its version and facts or what is wrong, and the line that repairs it.

    The status is ``ok``, ``missing``, ``broken`` (installed, but its import fails) or ``cannot run`` (installed, but
    this machine lacks something else).
    """

    item: str
    status: str
    detail: str
    install: str = ""


def doctor() -> str:
    """Return the findings of :func:`examine` as a plain-text table, with the lines to run below it."""
    return _table(examine())


def examine() -> list[Finding]:
    """Examine everything that edgepose can use; this takes seconds, because it imports all of it."""
    return [
        Finding("Python", OK, f"{platform.python_version()} ({sys.executable})"),
        Finding("platform", OK, _platform()),
        _module("numpy", "numpy", install_line("numpy")),
        _opencv(),
        *(_backend(name) for name in BACKENDS),
        *(_module(name, name, install_line(name)) for name in _TOOLS),
        _gpu(),
        _plugin(),
    ]


def _platform() -> str:
    release = Path("/etc/nv_tegra_release")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return f"{system}, {jetson_release(release.read_text())}" if release.is_file() else system


def _module(item: str, module: str, install: str) -> Finding:
    """Examine a module by importing it, which also tests its libraries."""
    if find_spec(module) is None:
        return Finding(item, MISSING, f"the Python module {module!r} is not installed", install)
    try:
        version = getattr(import_module(module), "__version__", "version unknown")
    except Exception as error:  # a broken installation may raise anything
        reason = " ".join(str(error).split())
        return Finding(item, BROKEN, f"import {module} fails: {type(error).__name__}: {reason}", install)
    return Finding(item, OK, str(version))


def _opencv() -> Finding:
    finding = _module("OpenCV", "cv2", install_line("cv2"))
    if finding.status != OK:
        return finding
    return replace(finding, detail=f"{finding.detail}; {_video_support(import_module('cv2').getBuildInformation())}")


def _video_support(build: str) -> str:
    """Return whether OpenCV's build information, lines of ``NAME:  YES (version)``, has FFmpeg and GStreamer.

    >>> _video_support("  FFMPEG:     YES\\n  GStreamer:    YES (1.20.3)\\n")
    'FFmpeg yes, GStreamer yes'
    """
    found = {name.lower() for name in re.findall(r"^\s*(\w+):\s+YES", build, re.IGNORECASE | re.MULTILINE)}
    return ", ".join(f"{name} {'yes' if name.lower() in found else 'no'}" for name in ("FFmpeg", "GStreamer"))


def _backend(name: str) -> Finding:
    item, module = f"backend {name}", BACKENDS[name].module
    installed = _module(item, module, install_line(module))
    if installed.status != OK:
        return installed
    reason = unavailable(name)
    if reason is None:
        return Finding(item, OK, installed.detail)
    builds = "; builds engines without a GPU" if name == "tensorrt-rtx" else ""
    # The row of the GPU has the line to install.
    detail = f"{installed.detail}; no GPU can be used" if name in TARGETS else f"{installed.detail}; {reason}"
    return Finding(item, UNUSABLE, detail + builds)


def _gpu() -> Finding:
    reason = device.gpu_missing()
    if reason:
        what, _, install = reason.partition(": ")
        return Finding("CUDA GPU", MISSING, what, install)
    gpu = device.device_info()
    return Finding("CUDA GPU", OK, f"{gpu.name}, {gpu.sm}, {gpu.memory / 2**30:.1f} GiB")


def _plugin() -> Finding:
    """Examine the plugin library, and the form in which the installed TensorRT gets the plugin."""
    item = "TensorRT plugin"
    try:
        library = find_library()
    except UsageError as error:
        what, _, install = str(error).rpartition(": run: ")
        return Finding(item, BROKEN, what, install)
    built = f"built: {library}" if library else "the plugin library is not built"
    tensorrt = _module("TensorRT", "tensorrt", "")
    if tensorrt.status != OK:
        unused = f"{built}; no TensorRT to register it with"
        return Finding(item, OK, unused) if library else Finding(item, MISSING, unused, "edgepose plugins build")
    try:
        form = form_for(tensorrt.detail, library)
    except UsageError as error:
        return Finding(item, UNUSABLE, f"{built}; {error}")
    return Finding(item, OK, f"{built}; registered with TensorRT {tensorrt.detail} as: {form}")


def _table(findings: list[Finding]) -> str:
    table = text_table(("item", "status", "detail"), [(f.item, f.status, f.detail) for f in findings])
    repairs = [f"  {f.item}: {f.install}" for f in findings if f.install]
    return "\n".join([table, "", "to install what is missing:", *repairs] if repairs else [table]) + "\n"
