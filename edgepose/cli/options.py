"""The options of each command, with their units and defaults."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bundle.manifest import PRECISIONS
from ..calib.crops import DEFAULT_LIMIT
from ..core.skeletons import SKELETONS
from ..graphs.calibration import METHODS
from ..runtime.track import CONFIDENT
from ..train.recipes import RECIPES
from . import commands as run

Commands = argparse._SubParsersAction
_BACKENDS = "tensorrt, tensorrt-rtx, onnxruntime, openvino, torch"
_BACKEND_HELP = f"default: the first of {_BACKENDS} that can run here"
_PRECISIONS = ", ".join(PRECISIONS)
_PRECISION_HELP = f"one of {_PRECISIONS} (default: auto, which is mixed, else the most exact that the bundle has)"
_PRECISIONS_HELP = f"all that the bundle has and a backend can run (default: all), or some of {_PRECISIONS}"
DEBUG = "show the traceback of an error"
_DATA = "KIND:ROOT of a data set, such as lsp:data/lspet (kinds: coco, crowdpose, lsp, mpii)"


def add_train(commands: Commands) -> None:
    p = commands.add_parser(
        "train",
        help="train a network, or continue a run that was stopped",
        description="Train a network, or continue a run that was stopped. Several processes: "
        "torchrun --nproc-per-node N -m edgepose train ...",
    )
    p.add_argument("recipe", metavar="RECIPE", help=f"name of a recipe: {', '.join(RECIPES)}")
    p.add_argument("--data", required=True, help=_DATA)
    p.add_argument("-o", "--output", type=Path, metavar="RUN", help="folder of the run")
    p.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="FIELD=VALUE", help="change a recipe's field"
    )
    p.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint to start from: .safetensors or .pth")
    p.add_argument(
        "--quantise",
        type=Path,
        metavar="BUNDLE",
        help="fine-tune --weights for INT8: round as the INT8 graph of the calibrated BUNDLE does, with frozen batch "
        "norms; then export the weights and calibrate again",
    )
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
    p.set_defaults(call=run.train_network)


def add_eval(commands: Commands) -> None:
    p = commands.add_parser("eval", help="accuracy on labelled images")
    p.add_argument("target", type=Path, metavar="BUNDLE|CHECKPOINT")
    p.add_argument("--data", required=True, help=_DATA)
    p.add_argument(
        "--boxes",
        default="gt",
        metavar="gt|FILE",
        help="boxes of the persons: the labelled ones (default), or a detector's results in COCO's JSON format",
    )
    p.add_argument("--flip", action="store_true", help="average with the mirrored crops")
    p.add_argument(
        "--decode",
        choices=("quarter", "dark"),
        default="quarter",
        help="maximum with the quarter offset, or distribution-aware (default: quarter)",
    )
    p.add_argument(
        "--shared-joints", action="store_true", help="score only the joints that the network and the data both have"
    )
    p.add_argument("--backend", default="auto", help=_BACKEND_HELP)
    p.add_argument("--precision", default="auto", help=_PRECISION_HELP)
    p.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    p.add_argument("--results", type=Path, metavar="OUT", help="write the keypoints as COCO results")
    p.add_argument("--worst", type=Path, metavar="OUT", help="draw the 25 worst crops into this picture")
    p.set_defaults(call=run.evaluate_target)


def add_export(commands: Commands) -> None:
    p = commands.add_parser("export", help="checkpoint to bundle: portable graph, goldens, manifest")
    p.add_argument("model", nargs="?", metavar="MODEL", help="network name (default: the checkpoint's)")
    p.add_argument("--weights", type=Path, metavar="FILE", help=".safetensors or .pth (default: untrained, seed 0)")
    p.add_argument("--skeleton", help=f"{', '.join(SKELETONS)} (default: the checkpoint's, or coco17)")
    p.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="crop height and width in pixels (default: the checkpoint's, or 256x192)",
    )
    p.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder NAME.edgepose")
    p.set_defaults(call=run.export_bundle)


def add_import(commands: Commands) -> None:
    p = commands.add_parser(
        "import",
        help="ONNX file of a person detector to bundle",
        description="Make a bundle from a person detector's ONNX file, for build, calibrate, verify, bench, prove and "
        "--detector. Its goldens are the outputs of the file itself.",
    )
    p.add_argument("model", metavar="MODEL.onnx", help="YOLOX, or person_lite for the shipped detector")
    p.add_argument("--decode", choices=("detector",), help="how to decode its outputs (default: recognised)")
    p.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder NAME.edgepose")
    p.set_defaults(call=run.import_bundle)


def add_calibrate(commands: Commands) -> None:
    p = commands.add_parser(
        "calibrate",
        help="make the FP16, BF16 and INT8 graphs of a bundle, and find the fastest mix",
        description="Make the FP16, BF16, INT8 and INT8+FP16 graphs of a bundle, with ranges from real crops, or for a "
        "detector from whole pictures. Two thirds of them set the ranges, the others test the result. With --max-drop "
        "also search the fastest mix.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--images", type=Path, metavar="DIR", help="folder of pictures of persons")
    p.add_argument(
        "--data",
        help=f"or the training split of a data set; its labels are used if they have the bundle's joints: {_DATA}",
    )
    p.add_argument(
        "--detector",
        metavar="D",
        help="with --images: YOLOX ONNX file, bundle of a detector, person_lite (weak), or none if a picture is one "
        "person (default: person_lite); not for a detector's own bundle, which takes whole pictures",
    )
    p.add_argument(
        "--crops",
        type=_positive,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="most crops or pictures (default: %(default)s)",
    )
    p.add_argument("--method", choices=METHODS, help=f"method of choosing a range (default: {METHODS[0]})")
    p.add_argument(
        "--calibration", type=Path, metavar="FILE", help="use the ranges in this calibration.json, collect none"
    )
    p.add_argument(
        "--max-drop", type=float, metavar="AP", help="search the fastest mix that loses at most this many points"
    )
    p.add_argument(
        "--backend",
        help="with --max-drop: backend to measure (default: openvino); tensorrt and tensorrt-rtx build each candidate",
    )
    p.add_argument(
        "--time-limit",
        type=float,
        metavar="MIN",
        help="with --max-drop: minutes of measuring (default: 30); run the command again to continue",
    )
    p.set_defaults(call=run.calibrate_bundle)


def add_build(commands: Commands) -> None:
    p = commands.add_parser(
        "build",
        help="build engines into a bundle",
        description="Build engines into a bundle: one, or every combination of the named targets and precisions. The "
        "builder's log of each is in BUNDLE/reports/.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--target", type=_names, metavar="T[,T]", help="tensorrt, tensorrt-rtx, or both with a comma")
    p.add_argument(
        "--precision",
        type=_names,
        metavar="P[,P]",
        help=f"some of {', '.join(PRECISIONS)} (default: fp32); edgepose calibrate makes the other graphs",
    )
    p.add_argument(
        "--all",
        action="store_true",
        help="every precision of the bundle's graphs, for every target that can build here; --target and --precision "
        "restrict it",
    )
    _add_build_options(p)
    p.set_defaults(call=run.build_engines)


def _add_build_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--batch",
        type=_profile,
        metavar="MIN,TYPICAL,MAX",
        help="images per call (default: 1,8,32; 1,1,4 with --low-memory)",
    )
    p.add_argument(
        "--workspace",
        type=_positive,
        metavar="MB",
        help="largest workspace of a layer in 10^6 bytes (default: all of the GPU's memory; 256 with --low-memory)",
    )
    p.add_argument(
        "--low-memory",
        action="store_true",
        help="for boards with 4 GB: smaller batches and workspace, optimisation level 1, no auxiliary streams",
    )
    p.add_argument(
        "--hardware-compatible",
        action="store_true",
        help="for other GPUs too; tensorrt: Ampere and later, slower, not on Jetson; tensorrt-rtx: its default SMs, as "
        "without a GPU",
    )
    p.add_argument(
        "--version-compatible",
        action="store_true",
        help="tensorrt: later versions can run the engine, slower (tensorrt-rtx does not support it)",
    )
    p.add_argument(
        "--no-plugin", action="store_true", help="tensorrt: run dynamic convolutions as standard ops, not in the plugin"
    )


def add_verify(commands: Commands) -> None:
    p = commands.add_parser("verify", help="replay the goldens; exit 0 only if every check passed")
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--backend", type=_names, default=("all",), help=f"all (default), or some of {_BACKENDS}")
    p.add_argument("--precision", type=_names, default=("all",), help=_PRECISIONS_HELP)
    _add_accuracy(p)
    p.add_argument("--report", type=Path, metavar="DIR", help="folder for the report (default: BUNDLE/reports)")
    p.set_defaults(call=run.verify_bundle)


def _add_accuracy(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data", help=f"also compare the accuracy of each with FP32's, on {_DATA}")
    p.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="with --data: largest loss of AP, PCKh or PCK against FP32, in percentage points (default: 0.5)",
    )


def add_bench(commands: Commands) -> None:
    p = commands.add_parser("bench", help="measure latency, throughput, load time and memory")
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--backend", type=_names, default=("all",), help=f"all (default), or some of {_BACKENDS}")
    p.add_argument(
        "--precision", type=_names, default=("all",), help=f"{_PRECISIONS_HELP}; with --source one (default: auto)"
    )
    p.add_argument("--batch", type=_numbers, help="images per call (default: 1,2,4,8)")
    p.add_argument("--source", metavar="S", help="measure the stages of the whole pipeline on this source instead")
    p.add_argument("--detector", metavar="D", help="with --source: as for run (default: none)")
    _add_detector_engine(p)
    p.add_argument("--frames", type=int, metavar="N", help="with --source: frames to measure (default: 100)")
    p.add_argument(
        "--json", type=Path, metavar="OUT", help="default: bench.json (with a plot) or bench-pipeline.json in reports/"
    )
    p.set_defaults(call=run.bench_bundle)


def _add_detector_engine(p: argparse.ArgumentParser) -> None:
    p.add_argument("--detector-backend", metavar="B", help=f"backend of the detector ({_BACKEND_HELP})")
    p.add_argument("--detector-precision", metavar="P", help=f"precision of a detector's bundle, {_PRECISION_HELP}")


def add_prove(commands: Commands) -> None:
    p = commands.add_parser(
        "prove",
        help="build, verify and measure on this device, and write one page",
        description="Build the engines of a bundle on this device, verify each against the goldens, and measure it. A "
        "step that fails is recorded, and the others continue; exit 0 only if every step passed. The page (HTML) and "
        "the record (JSON) hold the device, its power and clocks, versions, figures and hashes, and none of your "
        "paths, so you can share both. Each --batch is measured; the other build options are for engines only.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle; the engines are added to it")
    p.add_argument(
        "--target",
        type=_names,
        required=True,
        metavar="T[,T]",
        help="some of tensorrt, tensorrt-rtx, onnxruntime and openvino; the last two run graphs without a build",
    )
    p.add_argument("--precision", type=_names, default=("all",), metavar="P[,P]", help=_PRECISIONS_HELP)
    _add_accuracy(p)
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for proof-TARGETS-TIME.html and .json (default: BUNDLE/reports)",
    )
    _add_build_options(p)
    p.set_defaults(call=run.prove_bundle)


def add_run(commands: Commands) -> None:
    p = commands.add_parser("run", help="find poses in a source and write them to files")
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--source", required=True, metavar="S", help="file, folder, glob, camera index or rtsp:// address")
    p.add_argument(
        "--detector",
        default="none",
        metavar="D",
        help="YOLOX ONNX file, bundle of a detector (edgepose import), person_lite (shipped, weak), or none: follow "
        "one person (default: none)",
    )
    _add_detector_engine(p)
    p.add_argument("--backend", default="auto", help=_BACKEND_HELP)
    p.add_argument("--precision", default="auto", help=_PRECISION_HELP)
    p.add_argument(
        "--no-self-check", action="store_true", help="do not replay goldens before the first run on this machine"
    )
    # As text: a slash at the end means a folder, and a Path would lose it.
    p.add_argument("--save-video", metavar="F", help="overlay: a video, a picture (for one picture), or a folder")
    p.add_argument("--save-json", type=Path, metavar="F", help="JSON lines: a header, then each frame; - for stdout")
    p.add_argument("--save-coco", type=Path, metavar="F", help="COCO keypoint results; - for stdout")
    p.add_argument(
        "--detector-threshold",
        type=float,
        metavar="P",
        help="least score of a person, 0 to 1 (default: the detector's)",
    )
    p.add_argument(
        "--threshold",
        type=float,
        default=CONFIDENT,
        metavar="P",
        help="least score of a drawn joint, 0 to 1 (default: %(default)s)",
    )
    p.add_argument("--threads", action="store_true", help="run reading, each stage and writing in threads")
    p.add_argument(
        "--deadline", type=float, metavar="MS", help="with --threads: milliseconds after which a frame is not processed"
    )
    p.add_argument("--limit", type=int, metavar="N", help="stop after N frames (default: at the end of the source)")
    p.set_defaults(call=run.run_source)


def add_others(commands: Commands) -> None:
    p = commands.add_parser("demo", help="export, build, verify and run the shipped model")
    p.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder for all results (default: demo)")
    p.add_argument("--source", metavar="S", help="file, folder or camera index (default: a clip made from a photo)")
    p.set_defaults(call=run.run_demo)
    p = commands.add_parser("plugins", help="the TensorRT plugin of DITN's dynamic convolution")
    p.add_argument("action", choices=("build",), metavar="build", help="compile the library with CMake and nvcc")
    p.add_argument("--tensorrt", type=Path, metavar="DIR", help="folder with include/ (default: the system's headers)")
    p.add_argument("--arch", metavar="LIST", help="SMs such as 87,90 (default: all listed ones that nvcc supports)")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="library file (default: where edgepose finds it)")
    p.set_defaults(call=run.build_plugins)
    p = commands.add_parser("doctor", help="list what is installed, what can run, and what to install")
    p.set_defaults(call=run.examine_machine)


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
    return tuple(name.strip() for name in text.split(","))


def _assignment(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE, such as epochs=10")
    return key, value


#: The functions that add the commands, in the order of ``--help``.
COMMANDS = (
    *(add_train, add_eval, add_export, add_import, add_calibrate, add_build),
    *(add_verify, add_bench, add_prove, add_run, add_others),
)
