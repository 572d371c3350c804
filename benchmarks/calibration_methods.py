"""Which method of choosing INT8 ranges loses the least accuracy?

Two thirds of the crops of a pose network, or of the pictures of a detector, set the ranges by each method; INT8 is then
tested on the rest, against FP32 and against the labels if there are any.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from common import Outcome, run_benchmark

from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.calib.crops import CropSet, crops_from_data, pictures_from_images
from edgepose.calib.ranges import collect
from edgepose.calib.scorer import make_scorer
from edgepose.core.tables import text_table
from edgepose.demo import SHIPPED
from edgepose.export.from_onnx import import_detector
from edgepose.graphs.calibration import METHODS
from edgepose.graphs.quantise import place
from edgepose.graphs.variants import choice_for, make_graph

HEAD = ("network", "method", "AP against FP32", "identical", "moved > 4 px", "AP beside labels")


def compare(bundle: Bundle, crops: CropSet) -> Iterator[dict[str, Any]]:
    """Return a row for each method."""
    count = len(crops.images) * 2 // 3
    scorer, model = make_scorer(bundle, crops, count), onnx.load(bundle.graph)
    choice = choice_for("int8", model, ())
    tensors = place(model, choice.int8).tensors
    for method in METHODS:
        ranges = collect(bundle.graph, tensors, crops.images[:count], method).ranges
        found = scorer.find(make_graph(model, choice, ranges))
        accuracy = scorer.accuracy(found) if scorer.labelled else None
        row = {"network": bundle.manifest.name, "method": method, "calibrated": count, "judged": len(scorer.crops)}
        yield {**row, **asdict(scorer.agreement(found)), "accuracy": accuracy}


def measure(options: argparse.Namespace) -> Outcome:
    rows: list[dict[str, Any]] = []
    for path in options.bundles:
        bundle = open_bundle(path)
        size, skeleton = bundle.manifest.input_size, bundle.manifest.skeleton
        rows += compare(bundle, crops_from_data(options.data, size, limit=options.crops, skeleton=skeleton))
    with TemporaryDirectory() as folder:
        for detector in options.detectors:
            bundle = import_detector(detector, Path(folder) / f"{Path(detector).stem}.edgepose")
            size = bundle.manifest.input_size
            rows += compare(bundle, pictures_from_images(options.images, size, limit=options.crops))
    cells = [
        (
            row["network"],
            row["method"],
            *(f"{row[name]:.2f} %" for name in ("ap", "identical", "moved")),
            "-" if row["accuracy"] is None else f"{row['accuracy']:.2f} %",
        )
        for row in rows
    ]
    return Outcome(text_table(HEAD, cells), {"rows": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="KIND:ROOT; crops from its training split")
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures for the detectors")
    parser.add_argument("--bundles", type=Path, nargs="*", default=[SHIPPED], help="default: the shipped ditn_lite")
    parser.add_argument("--detectors", nargs="*", default=["person_lite"], help="ONNX files (default: person_lite)")
    parser.add_argument("--crops", type=int, default=384, help="of each network (default: %(default)s)")
    raise SystemExit(run_benchmark(parser, measure))
