"""How far could any model get on LSP's test labels, and how far is this one from there?

The labels are crowd-sourced: joints are a few pixels off, and left and right are sometimes exchanged. Nobody labelled
these pictures twice, so the noise is read from where a model and the labels nearly agree:

- Localisation. A joint's residuals (in torso lengths) are a mixture: a Gaussian core, where model and label mean one
  point, and gross errors spread over the whole body. The core's sigma holds the labels' noise and the model's own, so a
  perfect model would see at most that sigma: the ceiling is at least ``P(r <= 0.2)`` under the core.
- Left and right. Where a pair's prediction fits the labels only with left and right exchanged, one of the two is wrong.
  If all of those were label errors, no model could get them: the ceiling is at least what is left without them.

Both make the printed ceiling a lower bound of the true one.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np
from common import Outcome, run_benchmark
from numpy.typing import NDArray

from edgepose.bundle import open_bundle
from edgepose.metrics import torso_size
from edgepose.runtime.backends import open_session
from edgepose.tables import text_table
from edgepose.train.accuracy import predict
from edgepose.train.data import load_data

#: PCK's threshold, and the farthest residual that counts, in torso lengths.
RIGHT, FAR = 0.2, 2.0


def fit_core(residuals: NDArray[np.float64], rounds: int = 200) -> tuple[float, float]:
    """Share and sigma of the Gaussian core of distances, by expectation maximisation.

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


def measure(options: argparse.Namespace) -> Outcome:
    bundle = open_bundle(options.bundle)
    data, skeleton, size = load_data(options.data, "val"), bundle.skeleton, bundle.manifest.input_size
    with closing(open_session(bundle, "onnxruntime")) as session:

        def heatmaps(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            return session.run({"images": crops})["heatmaps"]

        padding = bundle.manifest.crop_padding
        found = predict(heatmaps, data.samples, skeleton, size, flip=True, padding=padding)[..., :2]
    labels = np.stack([s.joints for s in data.samples])
    unit = torso_size(labels, skeleton)[:, None]
    error = np.linalg.norm(found - labels, axis=-1) / unit
    exchanged = np.linalg.norm(found[:, list(skeleton.flip_order)] - labels, axis=-1) / unit
    swapped = np.zeros(error.shape, bool)
    for left, right in skeleton.flip_pairs:
        pair = [left, right]
        only_exchanged = (exchanged[:, pair] <= RIGHT).all(1) & (error[:, pair] > RIGHT).all(1)
        swapped[:, pair] = only_exchanged[:, None]
    rows, figures = [], []
    for j, name in enumerate(skeleton.joints):
        core, sigma = fit_core(error[error[:, j] < FAR, j])
        local = 100 * (1 - np.exp(-(RIGHT**2) / (2 * sigma**2)))
        now, swap = 100 * float((error[:, j] <= RIGHT).mean()), 100 * float(swapped[:, j].mean())
        figures.append({"joint": name, "now": now, "core": core, "sigma": sigma, "ceiling": local, "exchanged": swap})
        rows.append(
            [name, f"{now:.1f}", f"{sigma:.3f}", f"{local:.1f}", f"{swap:.1f}", f"{local * (1 - swap / 100):.1f}"]
        )
    means = {key: float(np.mean([f[key] for f in figures])) for key in ("now", "sigma", "ceiling", "exchanged")}
    lowest = float(np.mean([f["ceiling"] * (1 - f["exchanged"] / 100) for f in figures]))
    last = [f"{means['now']:.1f}", f"{means['sigma']:.3f}", f"{means['ceiling']:.1f}", f"{means['exchanged']:.1f}"]
    rows.append(["mean", *last, f"{lowest:.1f}"])
    head = ("joint", "PCK@0.2 now, %", "sigma, torsos", "ceiling, %", "exchanged, %", "ceiling without those, %")
    return Outcome(text_table(head, rows), {"joints": figures, **means, "ceiling_without_exchanged": lowest})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder NAME.edgepose")
    parser.add_argument("--data", required=True, help="KIND:ROOT of a data set with skeleton lsp14, such as lsp:lspet")
    raise SystemExit(run_benchmark(parser, measure))
