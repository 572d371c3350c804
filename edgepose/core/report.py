"""The base class of every command's report."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from .files import write_text


class Report(ABC):
    """The results of a command; ``str(report)`` is the text for a terminal."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON values, with the versions, hashes and machine that they are valid for."""

    def save(self, path: Path) -> None:
        """Write :meth:`to_json` to a file; a report with a page or a plot writes it beside, under the same name.

        Raises:
            UsageError: the file cannot be written.
        """
        write_text(path, json.dumps(self.to_json(), indent=2) + "\n")

    def require_passed(self) -> None:  # noqa: B027  a report without checks keeps this
        """Raise CheckError with the first failed check's reason; return if all passed."""
