"""Which network of the papers is the most accurate after training on the same images with the same budget?

HRNet, DITN, SG-HRNet, HSR-MSNet and SimpleBaseline from scratch, all on the mean squared error of the joints (DITN adds
that of the bones, SG-HRNet its segmentation); then DITN on its own loss, focal L2, and the others on it, too, so that
network and loss can be told apart. SG-HRNet's own loss is on the squared error. Everything else is shared.
``--narrow`` takes slim variants that can be trained on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from common import Outcome, run_benchmark
from training import Variant, add_budget, budget, draw_curves, figures, table, train_all

from edgepose.train.recipes import Recipe

#: Name, full network, slim network, and the PCKh@0.5 on MPII val that the papers print.
NETWORKS = {
    "HRNet": ("hrnet_w32", "hrnet_lite", "90.3"),
    "DITN": ("ditn_hrnet_w32", "ditn_lite", "90.8"),
    "SG-HRNet": ("sg_hrnet_w32", "sg_hrnet_lite", "90.6"),
    "HSR-MSNet": ("hsr_msnet_59", "hsr_msnet_lite", "-"),
    "SimpleBaseline": ("simplebaseline_r50", "simplebaseline_lite", "-"),
}
#: Network, loss of its joints, and the recipe's name for both; those of the papers are marked "own".
RUNS = (
    ("HRNet", "MSE, own", "mse"),
    ("DITN", "MSE", "ditn_mse"),
    ("DITN", "focal L2, own", "ditn"),
    ("HRNet", "focal L2", "ditn"),
    ("SG-HRNet", "MSE, own", "sg_hrnet"),
    ("HSR-MSNet", "MSE, own", "mse"),
    ("SimpleBaseline", "MSE, own", "mse"),
    ("HSR-MSNet", "focal L2", "ditn"),
    ("SimpleBaseline", "focal L2", "ditn"),
)


def variants(shared: Recipe, networks: Sequence[str], *, narrow: bool) -> list[Variant]:
    rows = []
    for name, joints, loss in (run for run in RUNS if run[0] in networks):
        full, slim, published = NETWORKS[name]
        recipe = replace(shared, model=slim if narrow else full, loss=loss, dynamic_weights=loss == "sg_hrnet")
        rows.append(Variant(f"{name} ({joints})", recipe, published if "own" in joints else "-"))
    return rows


def measure(options: argparse.Namespace) -> Outcome:
    trained = train_all(variants(budget(options), options.networks, narrow=options.narrow), options)
    kind = "slim" if options.narrow else "full"
    draw_curves(trained, options.json.with_suffix(".png"), f"{kind} networks, {options.epochs} epochs, {options.size}")
    return Outcome(table(trained, "papers, PCKh@0.5 on MPII"), figures(trained, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--narrow", action="store_true", help="slim networks, for a CPU")
    parser.add_argument(
        "--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, help="only these of the five"
    )
    add_budget(parser, epochs=40)
    raise SystemExit(run_benchmark(parser, measure))
