"""Which network of the papers is the most accurate after training on the same images with the same budget?

HRNet, DITN, SG-HRNet, HSR-MSNet and SimpleBaseline from scratch, each with its own paper's loss; everything else is
shared. ``--narrow`` takes slim variants that can be trained on a CPU.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from common import Outcome, run_benchmark
from training import Variant, add_budget, budget, draw_curves, figures, table, train_all

from edgepose.train.recipes import Recipe

#: Name, full network, slim network, loss, dynamic weights, and the PCKh@0.5 on MPII val that the papers print.
NETWORKS = (
    ("HRNet", "hrnet_w32", "hrnet_lite", "mse", False, "90.3"),
    ("DITN", "ditn_hrnet_w32", "ditn_lite", "ditn", False, "90.8"),
    ("SG-HRNet", "sg_hrnet_w32", "sg_hrnet_lite", "sg_hrnet", True, "90.6"),
    ("HSR-MSNet", "hsr_msnet_59", "hsr_msnet_lite", "mse", False, "-"),
    ("SimpleBaseline", "simplebaseline_r50", "simplebaseline_lite", "mse", False, "-"),
)


def variants(shared: Recipe, *, narrow: bool) -> list[Variant]:
    return [
        Variant(name, replace(shared, model=slim if narrow else full, loss=loss, dynamic_weights=dynamic), published)
        for name, full, slim, loss, dynamic, published in NETWORKS
    ]


def measure(options: argparse.Namespace) -> Outcome:
    trained = train_all(variants(budget(options), narrow=options.narrow), options)
    kind = "slim" if options.narrow else "full"
    draw_curves(trained, options.json.with_suffix(".png"), f"{kind} networks, {options.epochs} epochs, {options.size}")
    return Outcome(table(trained, "papers, PCKh@0.5 on MPII"), figures(trained, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--narrow", action="store_true", help="slim networks, for a CPU")
    add_budget(parser, epochs=40)
    raise SystemExit(run_benchmark(parser, measure))
