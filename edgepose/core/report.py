"""The one shape of every report: a text, plain values, a file, and a verdict."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from .files import write_text


class Report(ABC):
    """What a command found. ``str(report)`` is what a person reads on a terminal."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the versions, hashes and machine that they hold for."""

    def save(self, path: Path) -> None:
        """Write the plain values as JSON; a report that has a page or a plot puts it beside, under the same name.

        Raises:
            UsageError: the file cannot be written.
        """
        write_text(path, json.dumps(self.to_json(), indent=2) + "\n")

    def require_passed(self) -> None:  # noqa: B027  a report of figures alone has nothing to fail
        """Raise CheckError with the first reason unless every check of the report passed."""
