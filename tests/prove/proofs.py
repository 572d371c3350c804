"""What the tests of prove share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from edgepose.build.options import BuildOptions
from edgepose.core.timing import Budget
from edgepose.nvidia.device import DeviceInfo
from edgepose.prove.record import Proof

ONE = BuildOptions((1, 1, 1))
QUICK = Budget(calls=2, seconds=5.0, warm_up=0)
GPU = DeviceInfo("Orin", "sm87", 8 << 30)
Refuse = Callable[..., str]


def read(proof: Proof) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(proof.record.read_text(encoding="utf-8"))
    return values


def states(proof: Proof) -> dict[str, list[str]]:
    return {case.name: [step.state for step in case.steps.values()] for case in proof.cases}
