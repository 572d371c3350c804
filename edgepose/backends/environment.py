"""The description of the machine and the software versions, for reports."""

from __future__ import annotations

import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..core.machine import cpu_name, usable_threads, versions
from ..nvidia import device

_PACKAGES = (
    *("python", "edgepose", "numpy", "opencv-python-headless", "onnx", "onnxruntime", "openvino", "torch"),
    *("tensorrt", "tensorrt-rtx-cu13", "pycocotools"),
)


def environment() -> dict[str, Any]:
    """Return the machine, the versions and the command that a report was made with, as JSON values."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "cpu": cpu_name(),
        "cpu_threads": usable_threads(),
        "gpu": None if device.gpu_missing() else device.device_info().name,
        "system": platform.platform(),
        "versions": versions(*_PACKAGES),
    }
