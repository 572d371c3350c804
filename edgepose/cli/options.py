"""The options of each command, with their units and defaults."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ..bundle.manifest import PRECISIONS
from ..calib.crops import DEFAULT_LIMIT
from ..core.skeletons import SKELETONS
from ..graphs.calibration import METHODS
from ..runtime.track import CONFIDENT
from ..train.recipes import RECIPES
from . import commands as run


class Parser(argparse.ArgumentParser):
    """A parser that prints errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"edgepose: {' '.join(message.split())} (see {self.prog} --help)\n")

    def option(self, names: str, text: str, kind: Callable[[str], Any] = str, **more: Any) -> None:
        """Add an option by its names and the name of its value, such as ``-o --output FILE``, and its help."""
        flags = [word for word in names.split() if word.startswith("-")]
        value = names.split()[len(flags) :]
        self.add_argument(*flags, metavar=value[0] if value else None, help=text, type=kind, **more)

    def flag(self, name: str, text: str) -> None:
        """Add an option without a value."""
        self.add_argument(name, action="store_true", help=text)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
_BACKENDS = "tensorrt, tensorrt-rtx, onnxruntime, openvino, torch"
_BACKEND_HELP = f"default: the first of {_BACKENDS} that can run here"
_PRECISIONS = ", ".join(PRECISIONS)
_PRECISION_HELP = f"one of {_PRECISIONS} (default: auto, which is mixed, else the most exact that the bundle has)"
_PRECISIONS_HELP = f"all that the bundle has and a backend can run (default: all), or some of {_PRECISIONS}"
_BUNDLE = "folder of a bundle, or ditn_lite, which is shipped"
DEBUG = "show the traceback of an error"
_DATA = "KIND:ROOT of a data set, such as lsp:data/lspet (kinds: coco, crowdpose, lsp, mpii)"


def _command(
    commands: Commands, name: str, call: Callable[[argparse.Namespace], None], text: str, description: str | None = None
) -> Parser:
    p = commands.add_parser(name, help=text, description=description)
    p.set_defaults(call=call)
    return p


def add_train(commands: Commands) -> None:
    what = "train a network, or continue a run that was stopped"
    several = "Several processes: torchrun --nproc-per-node N -m edgepose train ..."
    p = _command(commands, "train", run.train_network, what, f"{what.capitalize()}. {several}")
    p.add_argument("recipe", metavar="RECIPE", help=f"name of a recipe: {', '.join(RECIPES)}")
    p.option("--data", _DATA, required=True)
    p.option("-o --output RUN", "folder of the run", Path)
    p.option("--set FIELD=VALUE", "change a recipe's field", _assignment, action="append", default=[])
    p.option("--weights FILE", "checkpoint to start from: .safetensors or .pth", Path)
    p.option(
        "--quantise BUNDLE",
        "fine-tune --weights for INT8: round as the INT8 graph of the calibrated BUNDLE does, with frozen batch norms; "
        "then export the weights and calibrate again",
        Path,
    )
    p.option("--device", "cpu or cuda (default: cpu)", default="cpu")
    p.option("--workers", "processes that make batches (default: 1)", _count, default=1)
    p.option("--eval-every N", "epochs between tests on the val split (default: 2)", _positive, default=2)
    p.option("--check FILE", "draw 16 augmented samples with their targets, and stop", Path)


def add_eval(commands: Commands) -> None:
    p = _command(commands, "eval", run.evaluate_target, "accuracy on labelled images")
    p.add_argument("target", type=Path, metavar="BUNDLE|CHECKPOINT")
    p.option("--data", _DATA, required=True)
    p.option(
        "--boxes gt|FILE",
        "boxes of the persons: the labelled ones (default), or a detector's results in COCO's JSON format",
        default="gt",
    )
    p.option(
        "--split S",
        "val (default), or test-dev of coco, which has no labels: write a --results file for COCO's evaluation server",
        choices=("val", "test-dev"),
        default="val",
    )
    p.flag("--flip", "average with the mirrored crops")
    p.flag("--as-published", "flip where the tables of the network's paper do, and only there")
    decode = "maximum with the quarter offset, or distribution-aware (default: quarter)"
    p.option("--decode", decode, choices=("quarter", "dark"), default="quarter")
    p.flag("--shared-joints", "score only the joints that the network and the data both have")
    _add_engine(p)
    p.option("--json OUT", "also write the figures to this file", Path)
    p.option("--results OUT", "write the keypoints as COCO results", Path)
    p.option("--worst OUT", "draw the 25 worst crops, with bone or segmentation maps, into this picture", Path)


def _add_engine(p: Parser) -> None:
    p.option("--backend", _BACKEND_HELP, default="auto")
    p.option("--precision", _PRECISION_HELP, default="auto")


def add_export(commands: Commands) -> None:
    what = "checkpoint to bundle: portable graph, goldens, manifest"
    p = _command(commands, "export", run.export_bundle, what)
    p.add_argument("model", nargs="?", metavar="MODEL", help="network name (default: the checkpoint's)")
    p.option("--weights FILE", ".safetensors or .pth (default: untrained, seed 0); for yolov3 darknet's .weights", Path)
    p.option("--skeleton", f"{', '.join(SKELETONS)} (default: the checkpoint's, or coco17)")
    size = "crop height and width in pixels (default: the checkpoint's, or 256x192; yolov3's pictures: 416x416)"
    p.option("--size HxW", size, _size)
    p.option("-o --output BUNDLE", "folder NAME.edgepose", Path, required=True)
    p.flag("--with-bones", "also output DITN's bone maps, or SG-HRNet's segmentation maps, for verify and eval to draw")


def add_import(commands: Commands) -> None:
    p = _command(
        commands,
        "import",
        run.import_bundle,
        "ONNX file of a person detector to bundle",
        "Make a bundle from a person detector's ONNX file, for build, calibrate, verify, bench, prove and --detector. "
        "Its goldens are the outputs of the file itself.",
    )
    p.add_argument("model", metavar="MODEL.onnx", help="YOLOX or YOLOv3, or person_lite for the shipped detector")
    p.option("--decode", "how to decode its outputs (default: recognised)", choices=("detector",))
    p.option("-o --output BUNDLE", "folder NAME.edgepose", Path, required=True)


def add_calibrate(commands: Commands) -> None:
    p = _command(
        commands,
        "calibrate",
        run.calibrate_bundle,
        "make the FP16, BF16 and INT8 graphs of a bundle, and find the fastest mix",
        "Make the FP16, BF16, INT8 and INT8+FP16 graphs of a bundle, with ranges from real crops, or for a detector "
        "from whole pictures. Two thirds of them set the ranges, the others test the result. With --max-drop also "
        "search the fastest mix.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    p.option("--images DIR", "folder of pictures of persons", Path)
    p.option(
        "--data", f"or the training split of a data set; its labels are used if they have the bundle's joints: {_DATA}"
    )
    p.option(
        "--detector D",
        "with --images: ONNX file or bundle of a detector, person_lite (weak), or none if a picture is one person "
        "(default: person_lite); not for a detector's own bundle, which takes whole pictures",
    )
    p.option("--crops N", "most crops or pictures (default: %(default)s)", _positive, default=DEFAULT_LIMIT)
    p.option("--method", f"method of choosing a range (default: {METHODS[0]})", choices=METHODS)
    p.option("--calibration FILE", "use the ranges in this calibration.json, collect none", Path)
    p.option("--max-drop AP", "search the fastest mix that loses at most this many points", float)
    p.option(
        "--backend",
        "with --max-drop: backend to measure (default: openvino); tensorrt and tensorrt-rtx build each candidate",
    )
    p.option(
        "--time-limit MIN",
        "with --max-drop: minutes of measuring (default: 30); run the command again to continue",
        float,
    )


def add_build(commands: Commands) -> None:
    p = _command(
        commands,
        "build",
        run.build_engines,
        "build engines into a bundle",
        "Build engines into a bundle: one, or every combination of the named targets and precisions. The builder's log "
        "of each is in BUNDLE/reports/.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    p.option("--target T[,T]", "tensorrt, tensorrt-rtx, or both with a comma", _names)
    graphs = f"some of {_PRECISIONS} (default: fp32); edgepose calibrate makes the other graphs"
    p.option("--precision P[,P]", graphs, _names)
    p.flag(
        "--all",
        "every precision of the bundle's graphs, for every target that can build here; --target and --precision "
        "restrict it",
    )
    _add_build_options(p)


def _add_build_options(p: Parser) -> None:
    p.option("--batch MIN,TYPICAL,MAX", "images per call (default: 1,8,32; 1,1,4 with --low-memory)", _profile)
    p.option(
        "--workspace MB",
        "largest workspace of a layer in 10^6 bytes (default: all of the GPU's memory; 256 with --low-memory)",
        _positive,
    )
    p.flag(
        "--low-memory",
        "for boards with 4 GB: smaller batches and workspace, optimisation level 1, no auxiliary streams",
    )
    p.flag(
        "--hardware-compatible",
        "for other GPUs too; tensorrt: Ampere and later, slower, not on Jetson; tensorrt-rtx: its default SMs, as "
        "without a GPU",
    )
    p.flag(
        "--version-compatible", "tensorrt: later versions can run the engine, slower (tensorrt-rtx does not support it)"
    )
    p.flag("--no-plugin", "tensorrt: run dynamic convolutions as standard ops, not in the plugin")


def add_verify(commands: Commands) -> None:
    p = _command(commands, "verify", run.verify_bundle, "replay the goldens; exit 0 only if every check passed")
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help=_BUNDLE)
    _add_engines(p, _PRECISIONS_HELP)
    _add_accuracy(p)
    p.option("--report DIR", "folder for the report (default: BUNDLE/reports)", Path)


def _add_engines(p: Parser, precisions: str) -> None:
    p.option("--backend", f"all (default), or some of {_BACKENDS}", _names, default=("all",))
    p.option("--precision", precisions, _names, default=("all",))


def _add_accuracy(p: Parser) -> None:
    p.option("--data", f"also compare the accuracy of each with FP32's, on {_DATA}")
    p.option(
        "--max-drop POINTS",
        "with --data: largest loss of AP, PCKh or PCK against FP32, in percentage points (default: 0.5)",
        float,
    )


def add_bench(commands: Commands) -> None:
    p = _command(commands, "bench", run.bench_bundle, "measure latency, throughput, load time and memory")
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help=_BUNDLE)
    _add_engines(p, f"{_PRECISIONS_HELP}; with --source one (default: auto)")
    p.option("--batch", "images per call (default: 1,2,4,8)", _numbers)
    p.option("--source S", "measure the stages of the whole pipeline on this source instead")
    p.option("--detector D", "with --source: as for run (default: none)")
    _add_detector_engine(p)
    p.option("--frames N", "with --source: frames to measure (default: 100)", int)
    p.option("--json OUT", "default: bench.json (with a plot) or bench-pipeline.json in reports/", Path)


def _add_detector_engine(p: Parser) -> None:
    p.option("--detector-backend B", f"backend of the detector ({_BACKEND_HELP})")
    p.option("--detector-precision P", f"precision of a detector's bundle, {_PRECISION_HELP}")


def add_prove(commands: Commands) -> None:
    p = _command(
        commands,
        "prove",
        run.prove_bundle,
        "build, verify and measure on this device, and write one page",
        "Build the engines of a bundle on this device, verify each against the goldens, and measure it. A step that "
        "fails is recorded, and the others continue; exit 0 only if every step passed. The page (HTML) and the record "
        "(JSON) hold the device, its power and clocks, versions, figures and hashes, and none of your paths, so you "
        "can share both. Each --batch is measured; the other build options are for engines only.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle; the engines are added to it")
    p.option(
        "--target T[,T]",
        "some of tensorrt, tensorrt-rtx, onnxruntime and openvino; the last two run graphs without a build",
        _names,
        required=True,
    )
    p.option("--precision P[,P]", _PRECISIONS_HELP, _names, default=("all",))
    _add_accuracy(p)
    p.option("-o --output DIR", "folder for proof-TARGETS-TIME.html and .json (default: BUNDLE/reports)", Path)
    _add_build_options(p)


def add_run(commands: Commands) -> None:
    p = _command(commands, "run", run.run_source, "find poses in a source and write them to files")
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help=_BUNDLE)
    p.option("--source S", "file, folder, glob, camera index or rtsp:// address", required=True)
    p.option(
        "--detector D",
        "YOLOX or YOLOv3 ONNX file, bundle of a detector (edgepose import, or edgepose export yolov3), person_lite "
        "(shipped, weak), or none: follow one person (default: none)",
        default="none",
    )
    _add_detector_engine(p)
    _add_engine(p)
    p.flag("--no-self-check", "do not replay goldens before the first run on this machine")
    # As text: a slash at the end means a folder, and a Path would lose it.
    p.option("--save-video F", "overlay: a video, a picture (for one picture), or a folder")
    p.option("--save-json F", "JSON lines: a header, then each frame; - for stdout", Path)
    p.option("--save-coco F", "COCO keypoint results; - for stdout", Path)
    p.option("--detector-threshold P", "least score of a person, 0 to 1 (default: the detector's)", float)
    joint = "least score of a drawn joint, 0 to 1 (default: %(default)s)"
    p.option("--threshold P", joint, float, default=CONFIDENT)
    p.flag("--threads", "run reading, each stage and writing in threads")
    p.option("--deadline MS", "with --threads: milliseconds after which a frame is not processed", float)
    p.option("--limit N", "stop after N frames (default: at the end of the source)", int)


def add_others(commands: Commands) -> None:
    p = _command(commands, "demo", run.run_demo, "export, build, verify and run the shipped model")
    p.option("-o --output", "folder for all results (default: demo)", Path, default=Path("demo"))
    p.option("--source S", "file, folder or camera index (default: a clip made from a photo)")
    p = _command(commands, "plugins", run.build_plugins, "the TensorRT plugin of DITN's dynamic convolution")
    p.add_argument("action", choices=("build",), metavar="build", help="compile the library with CMake and nvcc")
    p.option("--tensorrt DIR", "folder with include/ (default: the system's headers)", Path)
    p.option("--arch LIST", "SMs such as 87,90 (default: all listed ones that nvcc supports)")
    p.option("-o --output FILE", "library file (default: where edgepose finds it)", Path)
    _command(commands, "doctor", run.examine_machine, "list what is installed, what can run, and what to install")


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 256x192") from error
    return height, width


def _count(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
    return int(text)


def _positive(text: str) -> int:
    return _count(text, 1)


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
