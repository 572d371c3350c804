"""Take out of a report where its user keeps things: folders outside the system's name people, machines and clients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

#: The folders of an absolute path, but for those that every system has; not the slashes of a URL or of ``crops/s``.
_FOLDERS = re.compile(r"(?<![\w.~-])(?<!:/)/(?!/)(?!(?:usr|etc|proc|sys|dev|lib)/)(?:[^\s/'\"():;,<>]+/)+")


def anonymiser(known: Iterable[Path]) -> Callable[[Any], Any]:
    """A function that shortens paths in a text, and in every text of plain values as JSON has them.

    Args:
        known: files and folders of the user's, which become their own name. The home folder becomes ``~``, as do
            others of its name, and what leads to any other file becomes ``...``.

    >>> shorten = anonymiser([Path("/srv/ann/x.edgepose")])
    >>> shorten({"log": "/srv/ann/x.edgepose/reports/a.log of /mnt/ann/b.onnx: 3.1 crops/s"})
    {'log': 'x.edgepose/reports/a.log of .../b.onnx: 3.1 crops/s'}
    """
    names = {}
    for path in known:
        for form in (path, path.absolute(), path.resolve()):
            if len(form.parts) > 1:  # neither "/" nor a bare name
                names[str(form)] = path.resolve().name
    homes = _homes()
    names |= {str(home): "~" for home in homes}
    # Only whole names: /home/ann is not a part of /home/anna.
    paths = _any_of(names, before=r"(?<![\w~-])")
    users = _any_of({home.name for home in homes}, before="(?<=/)")

    def shorten(value: Any) -> Any:
        if isinstance(value, str):
            return users.sub("~", _FOLDERS.sub(".../", paths.sub(lambda match: names[match[0]], value)))
        if isinstance(value, dict):
            return {shorten(key): shorten(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [shorten(item) for item in value]
        return value

    return shorten


def _any_of(texts: Iterable[str], before: str) -> re.Pattern[str]:
    """Any of these texts, the longest that fits, where it ends as a name does."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(rf"{before}{re.escape(text)}(?![\w-])" for text in longest_first) or "(?!)")


def _homes() -> set[Path]:
    try:
        home = Path.home()
    except RuntimeError:  # a user without one
        return set()
    return {form for form in (home, home.resolve()) if len(form.parts) > 1}
