"""How accurate and how fast is the shipped person detector, compared with another one?

COCO's average precision over boxes of persons (pycocotools; a crowd is an ignored region there), precision and recall
at IoU 0.5 from each score on, and the milliseconds of the network alone, batch 1. The detectors
are timed in turns of short blocks, so that ratios are valid on a busy machine.
"""

from __future__ import annotations

import argparse
import io
import time
from contextlib import ExitStack, closing, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from common import Outcome, run_benchmark

from edgepose.backends.plan import unavailable
from edgepose.core.errors import UsageError, missing_extra
from edgepose.core.images import read_image
from edgepose.core.tables import text_table
from edgepose.detectors.detector import NetworkDetector
from edgepose.detectors.kinds import open_detector

PERSON = 1
#: The first six figures of pycocotools; small, medium and large are areas up to 32^2, 96^2 and above.
FIGURES = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
#: Least scores to choose from.
SCORES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
#: Average precision ranks every box, the unlikely ones too.
LEAST_SCORE = 0.01
BLOCKS, CALLS = 8, 5


def evaluate(detector: NetworkDetector, truth: Any, folder: Path) -> tuple[dict[str, float], dict[float, list[float]]]:
    """Return the :data:`FIGURES` of a detector on the pictures of a COCO ground truth, and its :func:`choices`."""
    from pycocotools.cocoeval import COCOeval

    results = []
    for image_id in truth.getImgIds():
        found = detector(read_image(folder / truth.loadImgs(image_id)[0]["file_name"]))
        corner, size = found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]
        for box, score in zip(np.hstack([corner, size]).tolist(), found.scores.tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": PERSON, "bbox": box, "score": score})
    if not results:
        return dict.fromkeys(FIGURES, 0.0), {}
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.params.catIds = [PERSON]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats), strict=False)), choices(evaluation)


def choices(evaluation: Any) -> dict[float, list[float]]:
    """Return precision and recall at IoU 0.5 by least score, for persons of any size."""
    pictures = [e for e in evaluation.evalImgs if e and e["aRng"] == evaluation.params.areaRng[0]]
    scores = np.concatenate([e["dtScores"] for e in pictures])
    found = np.concatenate([e["dtMatches"][0] > 0 for e in pictures])
    counts = ~np.concatenate([e["dtIgnore"][0].astype(bool) for e in pictures])
    persons = sum(int((np.asarray(e["gtIgnore"]) == 0).sum()) for e in pictures)
    rows = {}
    for least in SCORES:
        chosen = counts & (scores >= least)
        right = int((chosen & found).sum())
        rows[least] = [right / max(int(chosen.sum()), 1), right / max(persons, 1)]
    return rows


def latencies(detectors: list[NetworkDetector]) -> list[float]:
    """Return the median milliseconds of each network, measured in turns."""
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    feeds = [detector.prepare(picture) for detector in detectors]
    times: list[list[float]] = [[] for _ in detectors]
    for _ in range(BLOCKS):
        for detector, feed, mine in zip(detectors, feeds, times, strict=True):
            detector.infer(feed)  # until now the caches hold the data of the other network
            for _ in range(CALLS):
                start = time.perf_counter()
                detector.infer(feed)
                mine.append((time.perf_counter() - start) * 1000)
    return [float(np.median(mine)) for mine in times]


def measure(options: argparse.Namespace) -> Outcome:
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise missing_extra("pycocotools") from error
    annotations = options.coco / "annotations" / f"person_keypoints_{options.split}.json"
    if not annotations.is_file():
        raise UsageError(f"{annotations} is missing: give the folder that holds annotations/ and {options.split}/")
    figures: dict[str, dict[str, float]] = {Path(name).stem: {} for name in options.detectors}
    by_score: dict[str, dict[float, list[float]]] = {}
    with redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        for name, (short, row) in zip(options.detectors, figures.items(), strict=True):
            with closing(open_detector(name, threshold=LEAST_SCORE)) as detector:
                stated, by_score[short] = evaluate(detector, truth, options.coco / options.split)
            row.update(stated)
    backends = [backend for backend in ("onnxruntime", "openvino") if unavailable(backend) is None]
    for backend in backends:
        with ExitStack() as stack:
            opened = [stack.enter_context(closing(open_detector(name, backend))) for name in options.detectors]
            for row, ms in zip(figures.values(), latencies(opened), strict=True):
                row[f"{backend} ms"] = ms
    head = ("detector", *FIGURES, *(f"{backend} ms" for backend in backends))
    rows = [
        (name, *(f"{row[key]:.3f}" if key in FIGURES else f"{row[key]:.1f}" for key in head[1:]))
        for name, row in figures.items()
    ]
    counts = {
        "pictures": len(truth.getImgIds()),
        "persons": len(truth.getAnnIds(iscrowd=False)),
        "crowds": len(truth.getAnnIds(iscrowd=True)),
    }
    chosen = [
        (name, *(f"{value:.2f}" for value in (least, *pair)))
        for name, choice in by_score.items()
        for least, pair in choice.items()
    ]
    text = f"{text_table(head, rows)}\n\n{text_table(('detector', 'least score', 'precision', 'recall'), chosen)}"
    return Outcome(text, {"data": counts, "detectors": figures, "precision_recall": by_score})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True, help="folder with annotations/ and a folder of pictures")
    parser.add_argument("--split", default="val", help="such as val2017 (default %(default)s)")
    parser.add_argument(
        "--detectors", nargs="+", default=["person_lite"], metavar="D", help="ONNX files or person_lite (the default)"
    )
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())
