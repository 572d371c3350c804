"""Training runs with one budget, their table and their curves, for the benchmarks that train networks.

Every run has its own folder, so that a stopped benchmark continues.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from edgepose.core.tables import text_table
from edgepose.data import load_data
from edgepose.models import build_model
from edgepose.train.recipes import Recipe
from edgepose.train.trainer import train


@dataclass(frozen=True)
class Variant:
    """One row of a table: a name, the recipe, and the paper's figure."""

    name: str
    recipe: Recipe
    published: str = "-"


@dataclass(frozen=True)
class Trained:
    """The results of one variant.

    Attributes:
        variant: the row.
        parameters: number of parameters of the network.
        scores: scores after the last epoch in percent, by seed.
        images_per_second: images per second in training, by seed.
        curves: (epoch, score) of every test, by seed.
    """

    variant: Variant
    parameters: int
    scores: list[float]
    images_per_second: list[float]
    curves: list[list[tuple[int, float]]]

    @property
    def spread(self) -> float:
        """Return the standard deviation over the seeds; 0 for one seed."""
        return stdev(self.scores) if len(self.scores) > 1 else 0.0


def add_budget(parser: argparse.ArgumentParser, *, epochs: int) -> None:
    """Add the options of the budget that all variants share."""
    parser.add_argument("--data", required=True, help="KIND:ROOT of a data set with train and val splits")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs; one that was stopped goes on")
    parser.add_argument("--epochs", type=int, default=epochs, help="per run (default: %(default)s)")
    parser.add_argument("--size", default="256x192", help="HxW of the crops (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="crops per step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak of the one cycle (default: %(default)s)")
    parser.add_argument("--seeds", default="0", help="one run each, such as 0,1,2 (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches (default: %(default)s)")


def budget(options: argparse.Namespace) -> Recipe:
    """Return the recipe that all variants share: AdamW, one cycle, moderate augmentation."""
    height, width = (int(side) for side in options.size.split("x"))
    return Recipe(
        model="ditn_lite",
        skeleton=load_data(options.data, "val").skeleton,
        height=height,
        width=width,
        epochs=options.epochs,
        batch=options.batch,
        optimizer="adamw",
        lr=options.lr,
        weight_decay=1e-2,
        schedule="cycle",
        rotation=30.0,
        scale=0.25,
        colour=0.2,
    )


def train_all(variants: Sequence[Variant], options: argparse.Namespace) -> list[Trained]:
    """Train every variant with every seed."""
    count = len(load_data(options.data, "train").samples)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    return [_train(variant, seeds, count, options) for variant in variants]


def _train(variant: Variant, seeds: list[int], count: int, options: argparse.Namespace) -> Trained:
    recipe = variant.recipe
    with torch.device("meta"):
        network = build_model(
            recipe.model, skeleton=recipe.skeleton, input_size=recipe.input_size, **recipe.model_options
        )
    histories = []
    for seed in seeds:
        folder = options.runs / f"{variant.name.replace(' ', '_').replace('/', '_')}-seed{seed}"
        train(
            replace(recipe, seed=seed),
            options.data,
            folder,
            device=options.device,
            workers=options.workers,
            eval_every=1,
        )
        histories.append(torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["history"])
    return Trained(
        variant,
        sum(parameter.numel() for parameter in network.parameters()),
        [history[-1]["score"] for history in histories],
        [count * len(history) / sum(row["seconds"] for row in history) for history in histories],
        [[(int(row["epoch"]), row["score"]) for row in history] for history in histories],
    )


def table(trained: Sequence[Trained], published: str) -> str:
    """Return one row per variant: parameters, mean and spread of the score, images/s, and the paper's figure."""
    head = ("network", "parameters", "score, %", "spread", "images/s", published)
    rows = []
    for t in trained:
        spread = f"{t.spread:.1f}" if len(t.scores) > 1 else "one seed"
        speed = f"{mean(t.images_per_second):.0f}"
        rows.append([t.variant.name, f"{t.parameters:,}", f"{mean(t.scores):.1f}", spread, speed, t.variant.published])
    return text_table(head, rows)


def figures(trained: Sequence[Trained], options: argparse.Namespace) -> dict[str, Any]:
    """Return everything as JSON values for the result file."""
    shared = {name: value for name, value in vars(options).items() if name not in ("json", "runs", "data")}
    return {
        "budget": shared,
        "variants": {
            t.variant.name: {
                "recipe": json.loads(t.variant.recipe.to_json()),
                **{name: value for name, value in asdict(t).items() if name != "variant"},
            }
            for t in trained
        },
    }


def draw_curves(trained: Sequence[Trained], path: Path, title: str) -> None:
    """Draw the score after every epoch, one colour per variant, one line per seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="epoch", ylabel="score on the val split, %", title=title)
    for number, t in enumerate(trained):
        for curve in t.curves:
            label = t.variant.name if curve is t.curves[0] else None
            axes.plot(*zip(*curve, strict=True), color=f"C{number}", label=label)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
