"""What is run on a GPU, in order of value."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds that a part at its limit has to end before it is killed.
GRACE = 3
#: Seconds that all parts may take together, each at its limit.
LONGEST = 540
#: The exit code by which a part reports that it was skipped; its last line is the reason.
SKIPPED = 77
ROOT = Path(__file__).resolve().parents[2]
#: Modules that the operator of the dynamic convolution needs on a GPU.
_OPERATOR = ("module numpy", "module cv2", "module torch", "module cuda.bindings")
#: Modules that builds and sessions need; TensorRT-RTX itself is the part wheels.
_SESSION = ("module numpy", "module cv2", "module onnx", "module onnxruntime", "module cuda.bindings")
_CHECK = ("{python}", "benchmarks/dynamic_conv_gpu.py", "--check-only", "--cases")
_SANITIZER = ("compute-sanitizer", "--error-exitcode", "1", "--tool")


@dataclass(frozen=True)
class Part:
    """One thing that is run on a GPU.

    Attributes:
        name: of the part and of its files, ``NAME.json`` and ``NAME.log``.
        limit: seconds that it may take at least; it may take up to twice as long where earlier parts left time.
        command: its arguments, in which ``{python}`` and the folders ``{out}``, ``{work}``, ``{site}`` and
            ``{wheels}`` are replaced.
        proves: what it proves when it passes.
        needs: ``gpu``, ``module NAME``, ``tool NAME`` or ``part NAME``; without one of them the part is skipped.
        variables: environment variables of its process.
    """

    name: str
    limit: int
    command: tuple[str, ...]
    proves: str
    needs: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


PARTS = (
    Part(
        "environment",
        25,
        ("{python}", "benchmarks/gpu/machine.py", "{out}/environment.json"),
        "which GPU, driver, clocks and versions the other results hold for",
    ),
    Part(
        "wheels",
        25,
        ("bash", "benchmarks/gpu/wheels.sh", "install", "{wheels}", "{site}", "tensorrt_rtx"),
        "the wheels that were carried here install, and TensorRT-RTX can be imported",
        ("gpu",),
        (("PYTHON", "{python}"),),
    ),
    Part(
        "kernel",
        60,
        (*_CHECK, "all"),
        "the CUDA kernel and its gradients give float64's values, in every type and at odd shapes",
        ("gpu", *_OPERATOR),
    ),
    Part(
        "tests",
        50,
        ("{python}", "benchmarks/gpu/gpu_tests.py", "{out}/tests.json", "tests/plugins", "tests/nvidia"),
        "PyTorch's operator, CUDA graphs, streams, device memory and launches work as the code assumes",
        ("gpu", "module numpy", "module cv2", "module pytest"),
    ),
    Part(
        "memcheck",
        60,
        (*_SANITIZER, "memcheck", *_CHECK, "few"),
        "no kernel reads or writes outside its tensors",
        ("gpu", *_OPERATOR, "tool compute-sanitizer"),
        (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),),
    ),
    Part(
        "timings",
        60,
        ("{python}", "benchmarks/dynamic_conv_gpu.py", "--cases", "none", "--json", "{out}/timings.json"),
        "how near the kernel is to what the GPU can do, and how far ahead of PyTorch's own forms",
        ("gpu", *_OPERATOR),
    ),
    Part(
        "ditn",
        65,
        ("{python}", "benchmarks/ditn_gpu.py", "--json", "{out}/ditn.json"),
        "what DITN costs over its backbone",
        ("gpu", *_OPERATOR),
    ),
    Part(
        "sessions",
        35,
        ("{python}", "benchmarks/gpu/gpu_tests.py", "{out}/sessions.json", "tests/backends", "tests/build"),
        "an engine built on this GPU gives ONNX Runtime's values at every batch size, and frees its memory",
        ("gpu", *_SESSION, "module pytest"),
    ),
    Part(
        "rtx",
        50,
        ("{python}", "benchmarks/rtx_on_this_gpu.py", "--settle", "2", "--json", "{out}/rtx.json"),
        "whether TensorRT-RTX runs the shipped network on this GPU, built for it and built without a GPU",
        ("gpu", *_SESSION, "part wheels"),
    ),
    Part(
        "engines",
        45,
        ("{python}", "benchmarks/gpu/engines.py", "{out}", "{work}"),
        "the shipped bundle's engines build in five precisions, pass verify and are measured",
        ("gpu", *_SESSION, "module ml_dtypes", "part wheels"),
    ),
    Part(
        "racecheck",
        30,
        (*_SANITIZER, "racecheck", "--kernel-name", "kns=edgepose", *_CHECK, "few"),
        "no two threads of a block race for shared memory, of which the kernels have none so far",
        ("gpu", *_OPERATOR, "tool compute-sanitizer"),
    ),
)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file under a temporary name and rename it; edgepose may be impossible to import here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
