"""The checks of ``verify``: replays of the goldens on one backend in one precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..backends.plan import Runner
from ..backends.session import Arrays, Session
from ..bundle.contract import IMAGES
from ..bundle.goldens import Figures, Goldens, malformed, verdict
from ..core.errors import UsageError, first_line


@dataclass(frozen=True)
class Check:
    """The result of one runner at one batch size, and why it failed, or None.

    ``figures`` is None if the outputs are malformed or not finite; ``outputs``, for all goldens by name, is None if
    they are malformed.
    """

    runner: Runner
    batch: int
    figures: Figures | None = None
    problem: str | None = None
    outputs: Arrays | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Backend and precision, such as ``openvino int8``."""
        return str(self.runner)

    @property
    def cells(self) -> tuple[str, ...]:
        """The five cells of a table with the figures, in the order of :class:`Figures`."""
        if self.figures is None:
            return ("-",) * 5
        f = self.figures
        return (f"{f.score:.2g}", f"{f.score_fraction:.2g}", *(f"{px:.2f}" for px in (f.p50, f.p99, f.largest)))

    def to_json(self) -> dict[str, Any]:
        """Return everything except the outputs as JSON values."""
        return {
            "backend": self.runner.backend,
            "precision": self.runner.precision,
            "batch": self.batch,
            "passed": self.problem is None,
            "problem": self.problem,
            "figures": asdict(self.figures) if self.figures else None,
        }


def check_runner(runner: Runner, goldens: Goldens) -> Iterator[Check]:
    """Replay the goldens on one runner, one by one and in one batch."""
    batches = sorted({1, len(goldens.images)})
    try:
        session = runner.open()
    except UsageError as error:
        yield Check(runner, batches[0], problem=str(error))
        return
    with closing(session):
        for batch in batches:
            yield _check_batch(runner, session, goldens, batch)


def _check_batch(runner: Runner, session: Session, goldens: Goldens, batch: int) -> Check:
    try:
        parts = [
            session.run({IMAGES: goldens.images[start : start + batch]})
            for start in range(0, len(goldens.images), batch)
        ]
    except Exception as error:  # engines share no base class of exceptions
        return Check(runner, batch, problem=f"a batch of {batch} does not run: {first_line(error)}")
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    figures, problem = verdict(goldens, outputs, runner.precision)
    kept = None if malformed(goldens, outputs) else outputs
    return Check(runner, batch, figures, problem, kept)
