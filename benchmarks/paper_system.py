"""What does each stage of HSR-MSNet's system cost: YOLOv3, then HSR-MSNet-59, beside YOLOX-nano and the same network?

Both systems read the same video in turns, on one backend in FP32, and each stage is measured by
``edgepose.bench.pipeline``. Of each system's rounds the one with the smallest median total is kept: what else a machine
does only adds. HSR-MSNet is untrained, and without ``--weights`` YOLOv3 is too: its last layers are set so that it
finds one person, the whole frame. The layers decide the cost, not the weights; what is found is not measured here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import Outcome, run_benchmark
from lively_yolov3 import lively_yolov3, write_weights

from edgepose.bench.pipeline import PipelineReport, bench_pipeline
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.core.tables import text_table
from edgepose.export.from_checkpoint import export
from edgepose.export.from_darknet import INPUT_SIZE
from edgepose.export.from_onnx import golden_pictures, import_detector
from edgepose.models.yolov3 import YOLOv3
from edgepose.runtime.stages import STAGES

POSE, SIZE = "hsr_msnet_59", (256, 192)


def see_one_person(network: YOLOv3) -> YOLOv3:
    """Let every cell of the coarsest grid see one person as large as any frame, in place, and return the network."""
    with torch.no_grad():
        for head in network.heads:
            layer = head.predict[-1]
            layer.weight.zero_()
            layer.bias.view(3, 85)[:] = torch.tensor([0.0, 0, 0, 0, -20, *80 * [0]])
        # The largest anchor, 20 times as wide and high, certain: after non-maximum suppression one box is left.
        network.heads[0].predict[-1].bias.view(3, 85)[2] = torch.tensor([0.0, 0, 3, 3, 9, 9, *79 * [0]])
    return network


def detectors(options: argparse.Namespace, folder: Path) -> dict[str, Bundle]:
    weights = options.weights
    if weights is None:
        network = see_one_person(lively_yolov3(golden_pictures(INPUT_SIZE)[:2]))
        weights = write_weights(network, folder / "yolov3.weights")
    return {
        "yolov3": export("yolov3", folder / "yolov3.edgepose", weights=weights),
        Path(options.other).stem: import_detector(options.other, folder / "other.edgepose"),
    }


def measure(options: argparse.Namespace) -> Outcome:
    with TemporaryDirectory() as name:
        folder = Path(name)
        pose = export(options.pose, folder / "pose.edgepose", input_size=SIZE)
        best: dict[str, PipelineReport] = {}
        found = detectors(options, folder)
        for _ in range(options.rounds):
            for detector, bundle in found.items():
                report = bench_pipeline(
                    open_bundle(pose.path),
                    options.source,
                    bundle.path,
                    options.backend,
                    options.frames,
                    detector_backend=options.backend,
                )
                if detector not in best or report.total.p50 < best[detector].total.p50:
                    best[detector] = report
    reports = best.values()
    rows = [[name, *(f"{r.stages[name].p50:.2f}" if name in r.stages else "-" for r in reports)] for name in STAGES]
    rows += [["total", *(f"{r.total.p50:.2f}" for r in reports)]]
    rows += [["frames per second", *(f"{1e3 / r.total.p50:.1f}" for r in reports)]]
    rows += [["people per frame", *(f"{r.people:.1f}" for r in reports)]]
    head = ("stage, median ms", *(f"{detector} + {options.pose}" for detector in best))
    systems = {detector: _figures(report) for detector, report in best.items()}
    known = {"pose": options.pose, "pose_size": SIZE, "source": Path(options.source).name, "backend": options.backend}
    known |= {"frames": options.frames, "rounds": options.rounds, "trained_yolov3": options.weights is not None}
    return Outcome(text_table(head, rows), {**known, "systems": systems})


def _figures(report: PipelineReport) -> dict[str, object]:
    values = report.to_json()
    return {name: values[name] for name in ("detector_engine", "people", "stages", "own_work", "total")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a video of one person")
    parser.add_argument("--other", default="person_lite", help="ONNX file of the other detector (default %(default)s)")
    parser.add_argument("--weights", type=Path, help="yolov3.weights (default: random ones)")
    parser.add_argument("--pose", default=POSE, help="pose network (default %(default)s)")
    parser.add_argument("--backend", default="openvino", help="of all networks (default %(default)s)")
    parser.add_argument("--frames", type=int, default=30, help="measured frames per round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each system (default %(default)s)")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())
