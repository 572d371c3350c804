"""The machine that a figure holds for: processor, GPU, versions, memory."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .runtime.cpu import cpu_name
from .runtime.cuda import device_info, gpu_missing

_PACKAGES = (
    *("python", "edgepose", "numpy", "opencv-python-headless", "onnx", "onnxruntime", "openvino", "torch"),
    *("tensorrt", "tensorrt-rtx-cu13", "pycocotools"),
)


def environment() -> dict[str, Any]:
    """The machine, the versions and the command that a report was made with, as plain values."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "cpu": cpu_name(),
        "cpu_threads": usable_threads(),
        "gpu": None if gpu_missing() else device_info().name,
        "system": platform.platform(),
        "versions": versions(*_PACKAGES),
    }


def usable_threads() -> int:
    """Logical processors that this process may use; containers and ``taskset`` allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that are installed; ``python`` stands for the interpreter."""
    found = {}
    for name in packages:
        try:
            found[name] = platform.python_version() if name == "python" else version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (10^6 bytes); None where there is no ``/proc``.

    Not ``getrusage``: Linux lets its maximum start at what the parent process had.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.is_file() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]  # in KiB
    return round(peaks[0] * 1024 / 1e6, 1) if peaks else None
