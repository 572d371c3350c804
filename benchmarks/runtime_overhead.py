"""How much time does the runtime itself need around the two networks of a frame?

Letterbox, boxes, crop, keypoints and drawing are its own work; the two networks, and decoding and encoding the video,
are reported separately. The measurement is ``edgepose.bench.pipeline``; this adds the limit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import Outcome, run_benchmark

from edgepose.bench.pipeline import bench_pipeline
from edgepose.bundle.bundle import open_bundle

#: Median milliseconds of own work in a 1280x720 frame with one person, on two cores.
LIMIT_MS = 6.0


def measure(options: argparse.Namespace) -> Outcome:
    bundle = open_bundle(options.bundle)
    report = bench_pipeline(bundle, options.source, options.detector, options.backend, options.frames)
    own = report.own_work.p50
    excess = [f"the runtime's own work takes {own:.2f} ms, the limit is {LIMIT_MS:g} ms"] if own > LIMIT_MS else []
    figures = {**report.to_json(), "source": Path(options.source).name, "limit_ms": LIMIT_MS}
    return Outcome(str(report), figures, excess)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder NAME.edgepose")
    parser.add_argument("--source", required=True, help="a video of one person, 1280x720")
    parser.add_argument("--detector", default="none", help="ONNX file, or none (default)")
    parser.add_argument("--backend", default="auto", help="of the pose network (default %(default)s)")
    parser.add_argument("--frames", type=int, default=100, help="measured frames (default %(default)s)")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())
