"""Which accuracy could any model reach on LSP's test labels, and how far is this one from it?

The labels are crowd-sourced: joints are a few pixels off, and left and right are sometimes exchanged. Nobody labelled
these pictures twice, so the noise is read from where a model and the labels nearly agree:

- Localisation. A joint's residuals (in torso lengths) are a mixture: a Gaussian core, where model and label mean one
  point, and gross errors spread over the whole body. The core's sigma holds the labels' noise and the model's own, so a
  perfect model would see at most that sigma: the ceiling is at least ``P(r <= 0.2)`` under the core.
- Left and right. Where a pair's prediction fits the labels only with left and right exchanged, one of the two is wrong.
  If all of those were label errors, no model could get them: the ceiling is at least what is left without them.

Both make the printed ceiling a lower bound of the true one; what the model already reaches is another. It rises as the
model gets better, because less of the noise is then the model's.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np
from common import Outcome, run_benchmark
from numpy.typing import NDArray

from edgepose.accuracy.metrics import torso_size
from edgepose.accuracy.scoring import predict
from edgepose.backends.plan import open_session
from edgepose.bundle.bundle import open_bundle
from edgepose.core.skeletons import Skeleton
from edgepose.core.tables import text_table
from edgepose.data import load_data

#: PCK's threshold, and the farthest residual that counts, in torso lengths.
RIGHT, FAR = 0.2, 2.0


def fit_core(residuals: NDArray[np.float64], rounds: int = 200) -> tuple[float, float]:
    """Return share and sigma of the Gaussian core of distances, by expectation maximisation.

    Args:
        residuals: (N,) distances in 0..FAR; the gross errors are taken as uniform over that disc.
    """
    share, sigma = 0.5, 0.1
    for _ in range(rounds):
        core = share * residuals / sigma**2 * np.exp(-(residuals**2) / (2 * sigma**2))
        gross = (1 - share) * 2 * residuals / FAR**2
        belongs = core / np.maximum(core + gross, 1e-300)
        share = float(belongs.mean())
        sigma = float(np.sqrt((belongs * residuals**2).sum() / (2 * belongs.sum())))
    return share, sigma


def find(options: argparse.Namespace) -> tuple[Skeleton, NDArray[np.float64], NDArray[np.float64]]:
    """Return the skeleton, and residuals (N, J) in torso lengths: as predicted, and with left and right exchanged."""
    bundle = open_bundle(options.bundle)
    data, skeleton = load_data(options.data, "val"), bundle.skeleton
    size, padding = bundle.manifest.input_size, bundle.manifest.crop_padding
    with closing(open_session(bundle, "onnxruntime")) as session:

        def heatmaps(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            return session.run({"images": crops})["heatmaps"]

        found = predict(heatmaps, data.samples, skeleton, size, flip=True, padding=padding)[..., :2]
    labels = np.stack([s.joints for s in data.samples])
    unit = torso_size(labels, skeleton)[:, None]
    mirrored = found[:, list(skeleton.flip_order)]
    return skeleton, *(np.linalg.norm(points - labels, axis=-1) / unit for points in (found, mirrored))


def only_exchanged(
    error: NDArray[np.float64], mirrored: NDArray[np.float64], skeleton: Skeleton
) -> NDArray[np.float64]:
    """Return the percentage of persons, (J,), with both joints of a pair right only if left and right are exchanged."""
    share = np.zeros(error.shape[1])
    for pair in map(list, skeleton.flip_pairs):
        share[pair] = 100 * ((mirrored[:, pair] <= RIGHT).all(1) & (error[:, pair] > RIGHT).all(1)).mean()
    return share


def measure(options: argparse.Namespace) -> Outcome:
    skeleton, error, mirrored = find(options)
    joints = []
    for errors, swap in zip(error.T, only_exchanged(error, mirrored, skeleton), strict=True):
        core, sigma = fit_core(errors[errors < FAR])
        now = 100 * float((errors <= RIGHT).mean())
        ceiling = max(now, 100 * (1 - np.exp(-(RIGHT**2) / (2 * sigma**2))))
        rest = max(now, ceiling * (1 - swap / 100))
        joints.append({"now": now, "core": core, "sigma": sigma, "ceiling": ceiling, "exchanged": swap, "rest": rest})
    mean = {key: float(np.mean([figures[key] for figures in joints])) for key in joints[0]}
    rows = [
        [
            name,
            f"{f['now']:.1f}",
            f"{f['sigma']:.3f}",
            f"{f['ceiling']:.1f}",
            f"{f['exchanged']:.1f}",
            f"{f['rest']:.1f}",
        ]
        for name, f in zip((*skeleton.joints, "mean"), (*joints, mean), strict=True)
    ]
    head = ("joint", "PCK@0.2 now, %", "sigma, torsos", "ceiling, %", "exchanged, %", "ceiling without those, %")
    return Outcome(text_table(head, rows), {"joints": dict(zip(skeleton.joints, joints, strict=True)), "mean": mean})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder NAME.edgepose")
    parser.add_argument("--data", required=True, help="KIND:ROOT of a data set with skeleton lsp14, such as lsp:lspet")
    raise SystemExit(run_benchmark(parser, measure))
