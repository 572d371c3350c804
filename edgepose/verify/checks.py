"""What is checked: replays of the goldens on every backend in every precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..backends.plan import open_session
from ..backends.session import Arrays, Session
from ..bundle.bundle import Bundle
from ..bundle.goldens import Goldens
from ..bundle.limits import Figures, examine, malformed
from ..core.errors import UsageError


@dataclass(frozen=True)
class Check:
    """One backend in one precision at one batch size. ``problem`` says why it failed, None that it passed.

    ``outputs``, the keypoints and heat-maps of all goldens, is None where the engine gave no arrays of that form;
    ``figures`` is None there too, and where an output is not finite.
    """

    backend: str
    precision: str
    batch: int
    figures: Figures | None = None
    problem: str | None = None
    outputs: Arrays | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Backend and precision, such as ``"openvino int8"``."""
        return f"{self.backend} {self.precision}"

    @property
    def cells(self) -> tuple[str, ...]:
        """The figures as five cells of a table, in the order of :class:`Figures`."""
        if self.figures is None:
            return ("-",) * 5
        f = self.figures
        return (f"{f.score:.2g}", f"{f.score_fraction:.2g}", *(f"{px:.2f}" for px in (f.p50, f.p99, f.largest)))


def check_backend(bundle: Bundle, goldens: Goldens, backend: str, precision: str) -> Iterator[Check]:
    """Replay the goldens on one backend in one precision, one by one and all at once."""
    batches = sorted({1, len(goldens.images)})
    try:
        session = open_session(bundle, backend, precision)
    except UsageError as error:
        yield Check(backend, precision, batches[0], problem=str(error))
        return
    try:
        for batch in batches:
            yield _check_batch(session, goldens, precision, batch)
    finally:
        session.close()


def _check_batch(session: Session, goldens: Goldens, precision: str, batch: int) -> Check:
    try:
        parts = [
            session.run({"images": goldens.images[start : start + batch]})
            for start in range(0, len(goldens.images), batch)
        ]
    except Exception as error:  # the engines' own exception types share no public base
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return Check(session.backend, precision, batch, problem=f"a batch of {batch} does not run: {reason}")
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    figures, problem = examine(goldens, outputs, precision)
    kept = None if malformed(goldens, outputs) else outputs
    return Check(session.backend, precision, batch, figures, problem, kept)
