"""How much do the parts and losses of DITN improve it? The variants of the paper's Tables 5 and 6 under one budget.

The paper trains each for 210 epochs on MPII; with fewer, compare differences with the spread between seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from common import Outcome, run_benchmark
from training import Variant, add_budget, budget, draw_curves, figures, table, train_all

from edgepose.train.recipes import Recipe

_NOTHING = "mtl=false,ditm=false,cab=false,sab=false"
#: Table 5: name, the parts that are removed, PCKh@0.5 on MPII (HRNet-W32). The paper's baseline is HRNet with its own
#: loss; the one with DITN's loss tells what the parts alone bring.
PARTS = (
    ("baseline, focal L2", _NOTHING, "-"),
    ("MTL", "ditm=false,cab=false,sab=false", "90.458"),
    ("MTL DITM", "cab=false,sab=false", "90.585"),
    ("MTL DITM CAB", "sab=false", "90.596"),
    ("MTL DITM SAB", "cab=false", "90.632"),
    ("all", "", "90.658"),
)
#: Table 6: name, loss, PCKh@0.5 on MPII (ResNet-50). "Focal L2 + Smooth L1" is the last row above.
LOSSES = (("MSE + MSE", "ditn_mse", "88.81"), ("Focal L2 + Focal L2", "ditn_focal", "88.58"))


def variants(shared: Recipe, model: str) -> list[Variant]:
    """Return the rows of Table 5, then those of Table 6."""
    shared = replace(shared, model=model, loss="ditn")
    baseline = Variant("baseline, MSE", replace(shared, options=_NOTHING, loss="mse"), "90.330")
    parts = [Variant(name, replace(shared, options=off), published) for name, off, published in PARTS]
    losses = [Variant(name, replace(shared, loss=loss), published) for name, loss, published in LOSSES]
    return [baseline, *parts, *losses]


def measure(options: argparse.Namespace) -> Outcome:
    trained = train_all(variants(budget(options), options.model), options)
    draw_curves(
        trained, options.json.with_suffix(".png"), f"DITN's parts and losses ({options.model}, {options.epochs} epochs)"
    )
    return Outcome(table(trained, "paper, PCKh@0.5"), figures(trained, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ditn_lite", help="ditn_lite or ditn_hrnet_w32 (default: %(default)s)")
    add_budget(parser, epochs=20)
    raise SystemExit(run_benchmark(parser, measure))
