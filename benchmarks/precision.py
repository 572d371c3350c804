"""How much do keypoints change in each precision, and how much faster is it?

A copy of a bundle is calibrated on the training split of a data set and, with ``--max-drop``, searched for the fastest
mix. Every precision then finds the persons of the test split: accuracy by the labels, keypoints beside those of FP32,
and the keypoints that FP16 moves, each with both its peaks. Latency is of one crop, all backends in turn in one run.

FP16 is computed by an FP32 graph that rounds every tensor to FP16, because no CPU backend computes in it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from common import Outcome, run_benchmark
from numpy.typing import NDArray

from edgepose.accuracy.agreement import CONFIDENT, MOVED, agreement
from edgepose.accuracy.scoring import score
from edgepose.backends.plan import Runner, choose, open_graph
from edgepose.backends.session import Session
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.calib import SearchOptions, calibrate
from edgepose.calib.crops import DEFAULT_LIMIT, crops_from_data
from edgepose.calib.plots import write_plots
from edgepose.core.tables import text_table
from edgepose.data import load_data
from edgepose.demo import SHIPPED
from edgepose.graphs.calibration import METHODS
from edgepose.graphs.sixteen_bit import with_rounding

#: FP16: least share of equal keypoints, most of confident ones that move, both in percent. INT8 and mixed: most points
#: of accuracy that are lost.
IDENTICAL, MOVED_SHARE, DROP = 97.0, 0.1, 0.5
#: INT8 on OpenVINO beside FP32 on ONNX Runtime, for networks of this many multiply-adds and more.
SPEED_UP, LARGE = 2.5, 4e9
#: Calls of a latency: rounds over all sessions, calls per round.
ROUNDS, CALLS = 8, 4
BACKENDS = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))


@contextmanager
def judged_session(bundle: Bundle, precision: str) -> Iterator[Session]:
    """Open a session on ONNX Runtime with every rounding of the precision."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        graph = bundle.graph_for(precision)
        if "16" in precision:
            rounded = Path(folder) / "rounded.onnx"
            onnx.save(with_rounding(onnx.load(graph)), rounded)
            graph = rounded
        session = open_graph(graph)
        stack.callback(session.close)
        yield session


class Recorder:
    """A predictor that collects the keypoints (N, J, 3) in crop pixels, and the heat-maps (N, J, h, w)."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keypoints: list[NDArray[np.float32]] = []
        self._heatmaps: list[NDArray[np.float32]] = []

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs = self._session.run({"images": crops})
        self._keypoints.append(outputs["keypoints"])
        self._heatmaps.append(outputs["heatmaps"])
        return outputs["heatmaps"]

    @property
    def keypoints(self) -> NDArray[np.float32]:
        return np.concatenate(self._keypoints)

    @property
    def heatmaps(self) -> NDArray[np.float32]:
        return np.concatenate(self._heatmaps)


def moved_keypoints(before: Recorder, after: Recorder, joints: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the confident keypoints that moved, with the heights of both peaks in FP32's heat-maps, nearly equal."""
    distance = np.linalg.norm(before.keypoints[..., :2] - after.keypoints[..., :2], axis=-1)
    moved = []
    for crop, joint in np.argwhere((distance > MOVED) & (before.keypoints[..., 2] > CONFIDENT)):
        column, row = (after.keypoints[crop, joint, :2] / 4).round().astype(int)
        peaks = before.keypoints[crop, joint, 2], before.heatmaps[crop, joint, row, column]
        moved.append(
            {
                "crop": int(crop),
                "joint": joints[joint],
                "from": before.keypoints[crop, joint, :2].round(2).tolist(),
                "to": after.keypoints[crop, joint, :2].round(2).tolist(),
                "fp32_peaks": [round(float(peak), 5) for peak in peaks],
            }
        )
    return moved


def latencies(bundle: Bundle, runners: list[Runner]) -> dict[str, float]:
    """Return the median milliseconds of one crop, by backend and precision, measured in turns."""
    crop = {"images": read_goldens(bundle).images[:1]}
    times: dict[str, list[float]] = {str(runner): [] for runner in runners}
    with ExitStack() as stack:
        sessions = {str(runner): runner.open() for runner in runners}
        for session in sessions.values():
            stack.callback(session.close)
            session.run(crop)
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                for _ in range(CALLS):
                    start = perf_counter()
                    session.run(crop)
                    times[name].append((perf_counter() - start) * 1e3)
    return {name: median(samples) for name, samples in times.items()}


def accuracies(bundle: Bundle, data: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each precision, and the keypoints that FP16 moved."""
    split, manifest = load_data(data, "val"), bundle.manifest
    rows, moved, recorders = [], [], {}
    for precision in bundle.precisions:
        with judged_session(bundle, precision) as session:
            recorder = recorders[precision] = Recorder(session)
            scores = score(recorder, split, bundle.skeleton, manifest.input_size, padding=manifest.crop_padding)
        beside = agreement(
            recorders["fp32"].keypoints, recorder.keypoints, bundle.skeleton, manifest.input_size, manifest.crop_padding
        )
        rows.append({"precision": precision, "metric": scores.name, "accuracy": scores.value, **asdict(beside)})
        if precision == "fp16":
            moved = moved_keypoints(recorders["fp32"], recorder, bundle.skeleton.joints)
        if precision != "fp32":
            del recorders[precision]
    return rows, moved


def excess(rows: list[dict[str, Any]], times: dict[str, float], large: bool) -> list[str]:
    """Return a sentence for each limit that is exceeded."""
    by_precision = {row["precision"]: row for row in rows}
    exact, half = by_precision["fp32"], by_precision["fp16"]
    missed = []
    if half["identical"] < IDENTICAL:
        missed.append(f"fp16 leaves {half['identical']:.2f} % of the keypoints, limit {IDENTICAL:g} %")
    if half["moved"] > MOVED_SHARE:
        missed.append(f"fp16 moves {half['moved']:.3f} % of the confident keypoints, limit {MOVED_SHARE:g} %")
    for precision in ("int8", "int8+fp16", "mixed"):
        drop = exact["accuracy"] - by_precision.get(precision, exact)["accuracy"]
        if drop > DROP:
            missed.append(f"{precision} loses {drop:.2f} points, limit {DROP:g}")
    ratio = times["onnxruntime fp32"] / times["openvino int8"]
    if large and ratio < SPEED_UP:
        missed.append(f"INT8 on OpenVINO is {ratio:.1f} x as fast as FP32 on ONNX Runtime, limit {SPEED_UP:g} x")
    return missed


def measure(options: argparse.Namespace) -> Outcome:
    search = None if options.max_drop is None else SearchOptions(options.max_drop, "openvino", options.time_limit)
    with TemporaryDirectory() as folder:
        source = open_bundle(options.bundle)
        bundle = open_bundle(shutil.copytree(options.bundle, Path(folder) / options.bundle.name))
        crops = crops_from_data(
            options.data, source.manifest.input_size, limit=options.crops, skeleton=source.manifest.skeleton
        )
        start = perf_counter()
        report = calibrate(bundle, crops, options.method, search=search)
        seconds = perf_counter() - start
        bundle = report.bundle
        rows, moved = accuracies(bundle, options.data)
        pairs = [*BACKENDS, *([("openvino", "mixed")] if search else [])]
        times = latencies(bundle, [choose(bundle, *pair) for pair in pairs])
        for plot in write_plots(report):
            shutil.copy(plot, options.json.with_name(f"{options.json.stem}_{plot.name}"))
    fp32 = times["onnxruntime fp32"]
    head = ("precision", rows[0]["metric"], "AP against FP32", "identical", "moved > 4 px")
    cells = [(r["precision"], *(f"{r[key]:.2f} %" for key in ("accuracy", "ap", "identical", "moved"))) for r in rows]
    text = text_table(head, cells)
    text += "\n\n" + text_table(
        ("backend", "ms", "x FP32 on ONNX Runtime"), [(n, f"{ms:.2f}", f"{fp32 / ms:.2f}") for n, ms in times.items()]
    )
    text += f"\n\n{len(moved)} confident keypoints moved in FP16\n{report}"
    figures = {
        "model": source.manifest.model,
        "method": options.method,
        "calibration_crops": report.calibrated,
        "calibrate_seconds": seconds,
        "rows": rows,
        "fp16_moved": moved,
        "latency_ms": times,
        "calibration": {key: value for key, value in report.to_json().items() if key != "environment"},
    }
    return Outcome(text, figures, excess(rows, times, source.manifest.model != "ditn_lite"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=SHIPPED, help="default: the shipped ditn_lite")
    parser.add_argument(
        "--data", required=True, help="KIND:ROOT; ranges from its training split, accuracy from its test split"
    )
    parser.add_argument(
        "--crops", type=int, default=DEFAULT_LIMIT, help="for the ranges and the search (default: %(default)s)"
    )
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="default: %(default)s")
    parser.add_argument("--max-drop", type=float, help="also search for the fastest mix within this many points")
    parser.add_argument("--time-limit", type=float, default=30.0, help="minutes of the search (default: %(default)s)")
    raise SystemExit(run_benchmark(parser, measure))
