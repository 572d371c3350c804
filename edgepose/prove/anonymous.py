"""Remove the user's folders from a report: their names may identify people, machines and clients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

#: The folders of an absolute path, except for system folders; it does not match URLs or ``crops/s``.
_FOLDERS = re.compile(r"(?<![\w.~-])(?<!:/)/(?!/)(?!(?:usr|etc|proc|sys|dev|lib)/)(?:[^\s/'\"():;,<>]+/)+")


def anonymiser(known: Iterable[Path]) -> Callable[[Any], Any]:
    """Return a function that shortens the paths in JSON values.

    Args:
        known: files and folders of the user, which are replaced by their names. The home folder, and others with its
            name, become ``~``; the folders of any other file become ``...``.

    >>> shorten = anonymiser([Path("/srv/ann/x.edgepose")])
    >>> shorten({"log": "/srv/ann/x.edgepose/reports/a.log of /mnt/ann/b.onnx: 3.1 crops/s"})
    {'log': 'x.edgepose/reports/a.log of .../b.onnx: 3.1 crops/s'}
    """
    names = {}
    for path in known:
        for form in (path, path.absolute(), path.resolve()):
            if len(form.parts) > 1:  # not "/", and not a name without a folder
                names[str(form)] = path.resolve().name
    homes = _homes()
    names |= {str(home): "~" for home in homes}
    # Only whole names: /home/ann must not match in /home/anna.
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
    """Return a pattern for the longest of these texts that fits, up to the end of a name."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(rf"{before}{re.escape(text)}(?![\w-])" for text in longest_first) or "(?!)")


def _homes() -> set[Path]:
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return set()
    return {form for form in (home, home.resolve()) if len(form.parts) > 1}
