"""Train ``person_lite`` and write its graph: ``python -m tools.person_lite``, in the repository's root."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from edgepose.core.errors import CheckError, UsageError
from edgepose.data import load_data
from edgepose.export.to_onnx import require_exporter
from edgepose.train.distributed import require_device
from edgepose.train.run_folder import RunFolder
from tools.person_lite.export import export_detector, load_detector
from tools.person_lite.recipe import DetectorRecipe
from tools.person_lite.scenes import coco_scenes, lsp_scenes
from tools.person_lite.teacher import find_people
from tools.person_lite.trainer import train

#: Height and width of the shipped graph's input.
GRAPH_SIZE = (384, 384)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit code: 0 done, 1 a check failed, 2 wrong usage or input."""
    options = _parser().parse_args(arguments)
    try:
        weights = _train(options)
        graph = options.output / "person_lite.onnx"
        export_detector(load_detector(weights), GRAPH_SIZE, graph)
    except (CheckError, UsageError) as error:
        print(f"tools.person_lite: {error}", file=sys.stderr)
        return 1 if isinstance(error, CheckError) else 2
    except KeyboardInterrupt:
        print("tools.person_lite: stopped; the same command goes on from the last save", file=sys.stderr)
        return 130
    print(f"weights: {weights}\ngraph: {graph}")
    return 0


def _train(options: argparse.Namespace) -> Path:
    recipe = DetectorRecipe(**{name: value for name in _NUMBERS if (value := getattr(options, name)) is not None})
    RunFolder(options.output).require_writable()
    require_device(options.device)
    require_exporter()
    annotations = options.coco / "annotations" / f"person_keypoints_{options.coco_split}.json"
    coco = coco_scenes(annotations, options.coco / options.coco_split)
    athletes = load_data(f"lsp:{options.lsp}", "train").samples
    found = find_people(options.teacher, [sample.image for sample in athletes], options.output / "teacher.json")
    return train(
        [lsp_scenes(athletes, found), coco], recipe, options.output, device=options.device, workers=options.workers
    )


#: The fields of the recipe that are plain numbers; each is an option.
_NUMBERS = {f.name: type(f.default) for f in fields(DetectorRecipe) if isinstance(f.default, int | float)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.person_lite", description=__doc__)
    parser.add_argument("--lsp", type=Path, required=True, metavar="DIR", help="LSP-extended: joints.mat, images/")
    parser.add_argument("--coco", type=Path, required=True, metavar="DIR", help="annotations/ and a folder of pictures")
    parser.add_argument("--coco-split", default="train", help="name of both, such as train2017 (default: train)")
    parser.add_argument("--teacher", type=Path, required=True, metavar="D", help="ONNX file of a YOLOX detector")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches (default: 1)")
    default = DetectorRecipe()
    for name, kind in _NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"default: {getattr(default, name)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
