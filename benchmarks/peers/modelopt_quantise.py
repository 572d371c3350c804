"""INT8 by NVIDIA Model Optimizer's post-training quantisation of ONNX graphs, in the environment that has it.

``modelopt.py`` starts this with ``python -I``, so that its own name does not hide the package's.
"""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx.inliner


def quantise(graph: Path, crops: Path, output: Path, method: str, excluded: list[str]) -> None:
    """Write a graph with Q/DQ pairs.

    Args:
        graph: FP32, one input of uint8 crops; local functions are put in place of their calls, because Model Optimizer
            loses them.
        crops: ``.npy``, (N, h, w, 3) uint8 RGB, run one by one.
        output: the graph to write; what is not INT8 stays FP32.
        method: Model Optimizer's ``max`` or ``entropy``.
        excluded: names of nodes that are left as they are.
    """
    with TemporaryDirectory() as folder:
        inlined = Path(folder) / "pose.onnx"
        onnx.save(onnx.inliner.inline_local_functions(onnx.load(graph)), inlined)
        import_module("modelopt.onnx.quantization").quantize(
            str(inlined),
            quantize_mode="int8",
            calibration_data=np.load(crops),
            calibration_method=method,
            calibration_eps=["cpu"],
            nodes_to_exclude=[f"{re.escape(name)}$" for name in excluded],
            high_precision_dtype="fp32",
            output_path=str(output),
            log_level="WARNING",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("crops", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--method", choices=("max", "entropy"), default="entropy")
    parser.add_argument("--exclude", nargs="*", default=[], metavar="NODE")
    options = parser.parse_args()
    quantise(options.graph, options.crops, options.output.resolve(), options.method, options.exclude)


if __name__ == "__main__":
    main()
