"""The ``edgepose`` command: parses, and calls one function per command.

Exit codes: 0 done; 1 a check failed; 2 wrong usage or input, said in one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__
from .errors import CheckError, UsageError
from .skeletons import SKELETONS
from .train.recipes import RECIPES


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        arguments.call(arguments)
    except CheckError as error:
        return _say(error, 1, arguments.debug)
    except UsageError as error:
        return _say(error, 2, arguments.debug)
    except KeyboardInterrupt:
        print("edgepose: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _close_stdout()
    return 0


def _show(figures: object) -> None:
    """Print, before files are written: one that cannot be loses no figures, and a reader that leaves loses no file."""
    try:
        print(figures, flush=True)
    except BrokenPipeError:
        _close_stdout()


def _close_stdout() -> None:
    """The reader, such as ``head``, has seen enough; Python would complain again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(error: Exception, code: int, debug: bool) -> int:
    if debug:
        raise error
    print(f"edgepose: {error}", file=sys.stderr)
    return code


def _train(a: argparse.Namespace) -> None:
    _need_torch("train", "tqdm")
    from .train.recipes import get_recipe
    from .train.trainer import check_samples, train

    recipe = get_recipe(a.recipe, dict(a.set))
    if a.check:
        check_samples(recipe, a.data, a.check)
        print(f"samples and targets: {a.check}")
        return
    if a.output is None:
        raise UsageError("train needs -o RUN, the folder of the run (or --check FILE, to look at the samples)")
    weights = train(
        recipe, a.data, a.output, weights=a.weights, device=a.device, workers=a.workers, eval_every=a.eval_every
    )
    print(f"weights: {weights}")


def _eval(a: argparse.Namespace) -> None:
    if a.target.is_file():  # a checkpoint; a bundle runs on any backend
        _need_torch("train", "tqdm")
    from .evaluate import check_outputs, evaluate

    check_outputs(a.worst, a.json, a.results)  # before hours of work
    accuracy = evaluate(
        a.target,
        a.data,
        boxes=a.boxes,
        flip=a.flip,
        decode=a.decode,
        backend=a.backend,
        shared_joints=a.shared_joints,
    )
    _show(accuracy.table())
    if a.json:
        accuracy.save(a.json)
    if a.worst:
        accuracy.draw_worst(a.worst)
    if a.results:
        accuracy.save_results(a.results)


def _export(a: argparse.Namespace) -> None:
    _need_torch("export")
    from .export.bundle import export

    bundle = export(a.model, a.output, weights=a.weights, skeleton=a.skeleton, input_size=a.size)
    print(f"bundle: {bundle.path}{'' if bundle.manifest.trained else ' (untrained weights, seed 0)'}")


def _build(a: argparse.Namespace) -> None:
    from .bundle import ENGINES, open_bundle
    from .export.engine import build_engine

    record = build_engine(open_bundle(a.bundle), a.target, a.precision, a.batch, plugin=not a.no_plugin)
    print(f"engine: {a.bundle / ENGINES / record.file_name}\n{record}")


def _verify(a: argparse.Namespace) -> None:
    from .bundle import open_bundle
    from .verify import verify

    bundle = open_bundle(a.bundle)
    report, folder = verify(bundle, a.backend), a.report or bundle.reports
    _show(report)
    report.write(folder)
    print(f"report: {folder / 'verify.html'}")
    report.require_passed()


def _bench(a: argparse.Namespace) -> None:
    from .bench import bench
    from .bench_pipeline import bench_pipeline
    from .bundle import open_bundle

    bundle = open_bundle(a.bundle)
    if a.source is None:
        figures = bench(bundle, a.backend, a.batch)
        _show(figures)
        figures.write(a.json or bundle.reports / "bench.json")
        return
    if len(a.backend) > 1:
        raise UsageError(f"bench --source measures one backend, got {', '.join(a.backend)}")
    backend = "auto" if a.backend == ("all",) else a.backend[0]
    frames = bench_pipeline(bundle, a.source, a.detector, backend, a.frames)
    _show(frames)
    frames.write(a.json or bundle.reports / "bench-pipeline.json")


def _run(a: argparse.Namespace) -> None:
    from .runtime.run import run

    summary = run(
        a.bundle,
        a.source,
        detector=a.detector,
        backend=a.backend,
        save_video=a.save_video,
        save_json=a.save_json,
        save_coco=a.save_coco,
        limit=a.limit,
    )
    print(summary)


def _demo(a: argparse.Namespace) -> None:
    from .demo import demo

    demo(a.output, source=a.source, say=print)


def _doctor(_: argparse.Namespace) -> None:
    from .doctor import doctor

    print(doctor())


def _plugins_build(a: argparse.Namespace) -> None:
    from .plugins.library import build_library

    print(f"plugin library: {build_library(a.output, a.tensorrt, a.arch)}")


def _need_torch(extra: str, *others: str) -> None:
    """The training stage imports torch and others at the top of its modules; say what is missing before that."""
    from importlib.util import find_spec

    from .errors import missing_extra

    for module in ("torch", "safetensors", *others):
        if find_spec(module) is None:
            raise missing_extra(module, extra)


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 256x192") from error
    return height, width


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 1,8,32") from error


def _profile(text: str) -> tuple[int, int, int]:
    numbers = _numbers(text)
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN,TYPICAL,MAX, such as 1,8,32")
    return numbers[0], numbers[1], numbers[2]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _assignment(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE, such as epochs=10")
    return key, value


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is a ``--help`` away."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"edgepose: {' '.join(message.split())} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edgepose", description="Pose networks from PyTorch to the edge, verified.")
    parser.add_argument("--version", action="version", version=f"edgepose {__version__}")
    parser.add_argument("--debug", action="store_true", help=_DEBUG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_train, _add_eval, _add_export, _add_build, _add_verify, _add_bench, _add_run, _add_others):
        add(commands)
    for command in commands.choices.values():  # accepted after the command as well; SUPPRESS keeps what came before
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
    return parser


_Commands = argparse._SubParsersAction
_BACKENDS = "tensorrt, tensorrt-rtx, onnxruntime, openvino, torch"
_BACKEND_HELP = f"default: the first of {_BACKENDS} that can run here"
_DEBUG = "show the traceback of an error"
_DATA = "KIND:ROOT of a data set, such as lsp:data/lspet (kinds: coco, crowdpose, lsp, mpii)"


def _add_train(commands: _Commands) -> None:
    p = commands.add_parser(
        "train",
        help="train a network, or go on with a run that was stopped",
        description="Train a network, or go on with a run that was stopped. Several processes: "
        "torchrun --nproc-per-node N -m edgepose train ...",
    )
    p.add_argument("recipe", metavar="RECIPE", help=f"name of a set-up: {', '.join(RECIPES)}")
    p.add_argument("--data", required=True, help=_DATA)
    p.add_argument("-o", "--output", type=Path, metavar="RUN", help="folder of the run")
    p.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="FIELD=VALUE", help="change a recipe's field"
    )
    p.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint to start from: .safetensors or .pth")
    p.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    p.add_argument("--workers", type=_count, default=1, help="processes that make batches (default: 1)")
    p.add_argument(
        "--eval-every",
        type=_positive,
        default=2,
        metavar="N",
        help="epochs between tests on the val split (default: 2)",
    )
    p.add_argument("--check", type=Path, metavar="FILE", help="draw 16 augmented samples with their targets, and stop")
    p.set_defaults(call=_train)


def _add_eval(commands: _Commands) -> None:
    p = commands.add_parser("eval", help="accuracy on labelled images")
    p.add_argument("target", type=Path, metavar="BUNDLE|CHECKPOINT")
    p.add_argument("--data", required=True, help=_DATA)
    p.add_argument(
        "--boxes",
        default="gt",
        metavar="gt|FILE",
        help="persons' boxes: the labelled ones (default), or a detector's results in COCO's JSON form",
    )
    p.add_argument("--flip", action="store_true", help="average with the mirrored crops")
    p.add_argument(
        "--decode",
        choices=("quarter", "dark"),
        default="quarter",
        help="maximum moved a quarter pixel (default), or distribution-aware",
    )
    p.add_argument(
        "--shared-joints", action="store_true", help="score only the joints that the network and the data both name"
    )
    p.add_argument("--backend", default="auto", help=_BACKEND_HELP)
    p.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file, too")
    p.add_argument("--results", type=Path, metavar="OUT", help="write the keypoints as COCO results")
    p.add_argument("--worst", type=Path, metavar="OUT", help="draw the 25 worst crops into this picture")
    p.set_defaults(call=_eval)


def _add_export(commands: _Commands) -> None:
    p = commands.add_parser("export", help="checkpoint to bundle: portable graph, goldens, manifest")
    p.add_argument("model", nargs="?", metavar="MODEL", help="network name; may be left out if the checkpoint knows")
    p.add_argument("--weights", type=Path, metavar="FILE", help=".safetensors or .pth (default: untrained, seed 0)")
    p.add_argument("--skeleton", help=f"{', '.join(SKELETONS)} (default: the checkpoint's, or coco17)")
    p.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="crop height and width in pixels (default: the checkpoint's, or 256x192)",
    )
    p.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder NAME.edgepose")
    p.set_defaults(call=_export)


def _add_build(commands: _Commands) -> None:
    p = commands.add_parser("build", help="build an engine into a bundle")
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--target", required=True, help="tensorrt or tensorrt-rtx")
    p.add_argument("--precision", default="fp32", help="fp32 (default; others follow)")
    p.add_argument(
        "--batch", type=_profile, default=(1, 8, 32), metavar="MIN,TYPICAL,MAX", help="crops a call (default: 1,8,32)"
    )
    p.add_argument(
        "--no-plugin", action="store_true", help="tensorrt: run dynamic convolutions as standard ops, not in the plugin"
    )
    p.set_defaults(call=_build)


def _add_verify(commands: _Commands) -> None:
    p = commands.add_parser("verify", help="replay the goldens; exit 0 only if every check passed")
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--backend", type=_names, default=("all",), help=f"all (default), or some of {_BACKENDS}")
    p.add_argument("--report", type=Path, metavar="DIR", help="folder for the report (default: BUNDLE/reports)")
    p.set_defaults(call=_verify)


def _add_bench(commands: _Commands) -> None:
    p = commands.add_parser("bench", help="measure latency, throughput, load time and memory")
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--backend", type=_names, default=("all",), help=f"all (default), or some of {_BACKENDS}")
    p.add_argument("--batch", type=_numbers, default=(1, 2, 4, 8), help="crops a call (default: 1,2,4,8)")
    p.add_argument("--source", metavar="S", help="measure the whole pipeline on this source, stage by stage, instead")
    p.add_argument("--detector", default="none", metavar="D", help="with --source: as for run (default: none)")
    p.add_argument(
        "--frames", type=int, default=100, metavar="N", help="with --source: frames to measure (default: 100)"
    )
    p.add_argument(
        "--json", type=Path, metavar="OUT", help="default: bench.json (with a plot) or bench-pipeline.json in reports/"
    )
    p.set_defaults(call=_bench)


def _add_run(commands: _Commands) -> None:
    p = commands.add_parser("run", help="find poses in a source and write them to files")
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--source", required=True, metavar="S", help="file, folder, glob, camera index or rtsp:// address")
    p.add_argument(
        "--detector",
        default="none",
        metavar="D",
        help="YOLOX ONNX file, person_lite (shipped, weak), or none: follow one person (default: none)",
    )
    p.add_argument("--backend", default="auto", help=_BACKEND_HELP)
    p.add_argument("--save-video", type=Path, metavar="F", help="overlay: a video file, or a folder for pictures")
    p.add_argument("--save-json", type=Path, metavar="F", help="one JSON object a frame")
    p.add_argument("--save-coco", type=Path, metavar="F", help="COCO keypoint results")
    p.add_argument("--limit", type=int, metavar="N", help="stop after N frames (default: at the end of the source)")
    p.set_defaults(call=_run)


def _add_others(commands: _Commands) -> None:
    p = commands.add_parser("demo", help="the main job with the shipped model")
    p.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    p.add_argument("--source", metavar="S", help="file, folder or camera index (default: a clip made from a photo)")
    p.set_defaults(call=_demo)
    p = commands.add_parser("plugins", help="the TensorRT plugin of DITN's dynamic convolution")
    p.add_argument("action", choices=("build",), metavar="build", help="compile the library with CMake and nvcc")
    p.add_argument("--tensorrt", type=Path, metavar="DIR", help="folder with include/ (default: the system's headers)")
    p.add_argument("--arch", metavar="LIST", help="SMs such as 87,90 (default: all that are listed and nvcc knows)")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: where edgepose looks for it")
    p.set_defaults(call=_plugins_build)
    p = commands.add_parser("doctor", help="what is installed, what can run, what to install")
    p.set_defaults(call=_doctor)


if __name__ == "__main__":
    sys.exit(main())
