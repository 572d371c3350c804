"""The YOLOv3 with random weights of the benchmarks, which lie outside of the tests' packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parents[2] / "benchmarks" / "lively_yolov3.py"
_spec = importlib.util.spec_from_file_location("lively_yolov3_of_benchmarks", _FILE)
assert _spec is not None and _spec.loader is not None
_module: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

lively_yolov3, write_weights = _module.lively_yolov3, _module.write_weights
