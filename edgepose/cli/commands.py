"""The functions of the commands: call one function of the package with the parsed options, and print its result."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.bundle import Bundle, open_bundle
from ..bundle.manifest import ENGINES
from ..bundle.tasks import POSE
from ..core import files
from ..core.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from ..build import BuildOptions
    from ..core.report import Report


def train_network(a: argparse.Namespace) -> None:
    _require_torch("train", "tqdm")
    from ..graphs.read_quantisation import read_quantisation
    from ..train.learner import model_spec
    from ..train.recipes import get_recipe
    from ..train.trainer import check_samples, train

    recipe = get_recipe(a.recipe, dict(a.set))
    if a.check:
        check_samples(recipe, a.data, a.check)
        print(f"samples and targets: {a.check}")
        return
    if a.output is None:
        raise UsageError("train needs -o RUN, the folder of the run (or --check FILE, to draw samples)")
    quantisation = None if a.quantise is None else read_quantisation(a.quantise, model_spec(recipe), a.weights)
    options = _given(a, "weights", "device", "workers", "eval_every")
    print(f"weights: {train(recipe, a.data, a.output, quantisation=quantisation, **options)}")


def evaluate_target(a: argparse.Namespace) -> None:
    if a.target.is_file():  # a checkpoint; a bundle runs on any backend
        _require_torch("train", "tqdm")
    from ..evaluate import WORST, check_outputs, evaluate

    check_outputs(a.worst, a.json, a.results)  # before hours of work
    options = _given(a, "boxes", "flip", "decode", "as_published", "backend", "precision")
    if a.split == "test-dev":
        _predict_test_dev(a, options)
        return
    worst = WORST if a.worst else 0
    accuracy = evaluate(a.target, a.data, shared_joints=a.shared_joints, worst=worst, **options)
    show(accuracy)
    if a.json:
        accuracy.save(a.json)
    if a.worst:
        accuracy.draw_worst(a.worst)
    if a.results:
        accuracy.save_results(a.results)


def _predict_test_dev(a: argparse.Namespace, options: dict[str, Any]) -> None:
    from ..evaluate import predict_test_dev

    _refuse_unused(a, "labels, which test-dev has not", "worst", "shared_joints")
    if a.results is None:
        raise UsageError("--split test-dev needs --results OUT, the file for COCO's evaluation server")
    results = predict_test_dev(a.target, a.data, **options)
    show(results)
    if a.json:
        results.save(a.json)
    results.save_results(a.results)


def export_bundle(a: argparse.Namespace) -> None:
    _require_torch("export")
    from ..export.from_checkpoint import export

    options = _given(a, "weights", "skeleton", "with_bones", input_size="size")
    bundle = export(a.model, a.output, tell=print, **options)
    print(f"bundle: {bundle.path}{'' if bundle.manifest.trained else ' (untrained weights, seed 0)'}")


def import_bundle(a: argparse.Namespace) -> None:
    from ..export.from_onnx import import_detector

    print(f"bundle: {import_detector(a.model, a.output).path}")


def calibrate_bundle(a: argparse.Namespace) -> None:
    from ..calib import SearchOptions, calibrate
    from ..calib.crops import collect_crops
    from ..calib.plots import write_plots
    from ..detectors.kinds import SHIPPED_NAME
    from ..graphs.calibration import METHODS, read_calibration

    bundle = open_bundle(a.bundle)
    bundle.require_writable()
    search = None
    if a.max_drop is None:
        _refuse_unused(a, "--max-drop", "backend", "time_limit")
    else:
        search = SearchOptions(a.max_drop, a.backend or "openvino", 30.0 if a.time_limit is None else a.time_limit)
    if a.images is None or bundle.task is not POSE:
        _refuse_unused(a, "--images DIR and a pose network", "detector")
    if a.calibration is not None:
        _refuse_unused(a, "ranges that are collected, not --calibration", "method")
        read_calibration(a.calibration, bundle.graph)  # before hours of work
    crops = collect_crops(bundle, a.images, a.data, detector=a.detector or SHIPPED_NAME, limit=a.crops)
    report = calibrate(bundle, crops, a.method or METHODS[0], calibration=a.calibration, search=search)
    show(report)
    for plot in write_plots(report):
        print(f"plot: {plot}")


def build_engines(a: argparse.Namespace) -> None:
    from ..build import build_engine, build_matrix, plan_matrix

    if a.target is None and not a.all:
        raise UsageError("build needs --target tensorrt or tensorrt-rtx (or --all for all that can build here)")
    options = _build_options(a)
    bundle = open_bundle(a.bundle)
    bundle.require_writable()
    if "tensorrt" not in (a.target or ("tensorrt",)):
        _refuse_unused(a, "--target tensorrt", "no_plugin")
    pairs = plan_matrix(bundle, a.target, a.precision or (None if a.all else ("fp32",)), options)
    if len(pairs) > 1 or a.all:
        matrix = build_matrix(bundle, pairs, options, say=show)
        show(matrix)
        matrix.require_passed()
        return
    record = build_engine(bundle, *pairs[0], options)
    print(f"engine: {a.bundle / ENGINES / record.file_name}\n{record}")


def _build_options(a: argparse.Namespace) -> BuildOptions:
    from ..build import BuildOptions

    return BuildOptions(
        a.batch, a.workspace, a.hardware_compatible, a.version_compatible, a.low_memory, plugin=not a.no_plugin
    )


def verify_bundle(a: argparse.Namespace) -> None:
    from ..verify import verify

    bundle = open_bundle(a.bundle)
    if a.data is None:
        _refuse_unused(a, "--data", "max_drop")
    name = f"{_report_name('verify', a.backend, a.precision)}.json"
    place = _report_place(bundle, None if a.report is None else a.report / name, name)
    report = verify(bundle, a.backend, a.precision, **_given(a, "data", "max_drop"))
    show(report)
    if place is not None:
        report.save(place)
        print(f"report: {place.with_suffix('.html')}")
    report.require_passed()


def bench_bundle(a: argparse.Namespace) -> None:
    from ..bench import bench

    bundle = open_bundle(a.bundle)
    place = _report_place(bundle, a.json, "bench.json" if a.source is None else "bench-pipeline.json")
    if a.source is None:
        _refuse_unused(a, "--source", "detector", "frames", "detector_backend", "detector_precision")
        report: Report = bench(bundle, a.backend, precisions=a.precision, **_given(a, batches="batch"))
    else:
        report = _bench_pipeline(bundle, a)
    show(report)
    if place is not None:
        report.save(place)


def _bench_pipeline(bundle: Bundle, a: argparse.Namespace) -> Report:
    from ..bench import bench_pipeline

    _refuse_unused(a, "a network alone, without --source", "batch")
    for what, names in (("backend", a.backend), ("precision", a.precision)):
        if len(names) > 1:
            raise UsageError(f"bench --source measures one {what}, got {', '.join(names)}")
    backend, precision = ("auto" if names == ("all",) else names[0] for names in (a.backend, a.precision))
    options = _given(a, "detector", "frames", "detector_backend", "detector_precision")
    return bench_pipeline(bundle, a.source, backend=backend, precision=precision, **options)


def prove_bundle(a: argparse.Namespace) -> None:
    from ..nvidia.tensorrt import TARGETS
    from ..prove import prove

    options = _build_options(a)
    bundle = open_bundle(a.bundle)
    if a.data is None:
        _refuse_unused(a, "--data", "max_drop")
    if not set(a.target) & set(TARGETS):
        engines = ("workspace", "hardware_compatible", "version_compatible", "low_memory", "no_plugin")
        _refuse_unused(a, "--target tensorrt or tensorrt-rtx", *engines)
    if a.output is None or set(a.target) & set(TARGETS):
        bundle.require_writable()
    accuracy = _given(a, "data", "max_drop")
    proof = prove(bundle, a.target, a.precision, options, folder=a.output, say=show, **accuracy)
    show(proof)
    print(f"page: {proof.page}\nrecord: {proof.record}")
    proof.require_passed()


def run_source(a: argparse.Namespace) -> None:
    from ..runtime.run import run

    options = _given(
        a,
        *("detector", "detector_backend", "detector_precision", "detector_threshold", "backend", "precision"),
        *("save_video", "save_json", "save_coco", "limit", "threshold", "threads"),
        deadline_ms="deadline",
    )
    print(run(a.bundle, a.source, self_check=not a.no_self_check, **options))


def run_demo(a: argparse.Namespace) -> None:
    from ..demo import demo

    demo(a.output, source=a.source, say=print)


def examine_machine(_: argparse.Namespace) -> None:
    from ..doctor import doctor

    print(doctor())


def build_plugins(a: argparse.Namespace) -> None:
    from ..plugins.library import build_library

    print(f"plugin library: {build_library(a.output, a.tensorrt, a.arch)}")


def _require_torch(extra: str, *others: str) -> None:
    """Raise UsageError if torch or another module is missing, before the import of modules that need it."""
    for module in ("torch", "safetensors", *others):
        if importlib.util.find_spec(module) is None:
            raise missing_extra(module, extra)


def _refuse_unused(a: argparse.Namespace, needs: str, *options: str) -> None:
    """Refuse options that were given, so are not None or False, and would have no effect without ``needs``."""
    given = [f"--{name.replace('_', '-')}" for name in options if getattr(a, name) not in (None, False)]
    if given:
        raise UsageError(f"{', '.join(given)} would have no effect: expected with {needs}")


def _given(a: argparse.Namespace, *names: str, **renamed: str) -> dict[str, Any]:
    """Return the options that were given or have a default, as keyword arguments: the function knows the others'.

    >>> _given(argparse.Namespace(flip=True, limit=None, deadline=5.0), "flip", "limit", deadline_ms="deadline")
    {'flip': True, 'deadline_ms': 5.0}
    """
    keywords = {name: name for name in names} | renamed
    return {keyword: value for keyword, name in keywords.items() if (value := getattr(a, name)) is not None}


def _report_place(bundle: Bundle, given: Path | None, name: str) -> Path | None:
    """Return where a report goes, tried before the work; None, said on stderr, if the bundle cannot be written to."""
    place = given or bundle.reports / name
    if given is None and bundle.read_only:
        print(f"edgepose: no report is written: {bundle.read_only}", file=sys.stderr)
        return None
    files.check_writable(place)
    return place


def _report_name(command: str, backends: Sequence[str], precisions: Sequence[str]) -> str:
    """Return the name of a report; a report on a part of the bundle has another name than one on all of it.

    >>> _report_name("verify", ("all",), ("all",)), _report_name("verify", ("openvino",), ("fp32", "int8"))
    ('verify', 'verify-openvino-fp32-int8')
    """
    named = [name for names in (backends, precisions) if tuple(names) != ("all",) for name in names]
    return "-".join([command, *named])


def show(figures: object) -> None:
    """Print figures, before files are written; a closed stdout, as by ``| head``, is ignored."""
    try:
        print(figures, flush=True)
    except BrokenPipeError:
        close_stdout()


def close_stdout() -> None:
    """Redirect stdout to nothing after its reader, such as ``head``, has closed it: Python would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
