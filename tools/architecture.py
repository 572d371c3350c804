"""Read the imports between the rooms of the package: count them, name what breaks the rule, draw the picture.

    python tools/architecture.py docs/architecture.svg

The rule: a folder imports only folders that stand above it in :data:`ROOMS`, and of another command only what its
``__init__`` offers.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: The order of imports: every room imports only rooms that stand before it. A room is a folder of the package, or a
#: module at its top.
LIBRARY = (
    "core",
    "nvidia",
    "bundle",
    "data",
    "plugins",
    "models",
    "graphs",
    "backends",
    "detectors",
    "runtime",
    "accuracy",
)
#: Of these, others import only what the ``__init__`` offers.
COMMANDS = ("build", "evaluate", "train", "export", "calib", "verify", "bench", "prove")
#: These may import everything, and nobody imports them.
FRONT_DOORS = ("demo", "doctor", "cli")
ROOMS = (*LIBRARY, *COMMANDS, *FRONT_DOORS)

PACKAGE = Path(__file__).resolve().parents[1] / "edgepose"


@dataclass(frozen=True)
class Import:
    """One import of one file.

    Attributes:
        file: path of the file below the package.
        line: number of its line.
        room: the room of the file.
        target: the room that it imports from.
        depth: parts of the imported module's name below the package: 1 for the room's ``__init__``.
    """

    file: str
    line: int
    room: str
    target: str
    depth: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def imports(package: Path = PACKAGE) -> list[Import]:
    """Return every import from one room of another, inside functions too, sorted by file and line."""
    return [found for path in sorted(package.rglob("*.py")) for found in _imports_of(path, package)]


def _imports_of(path: Path, package: Path) -> Iterator[Import]:
    parts = path.relative_to(package).with_suffix("").parts
    room = parts[0]
    if room in ("__init__", "__main__"):  # the package's own door, no room
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {module for name in _names(node, parts, package) if (module := _module(name, package))}
            for module in sorted(modules):
                if module[0] != room:
                    yield Import("/".join((*parts[:-1], path.name)), node.lineno, room, module[0], len(module))


def _names(node: ast.Import | ast.ImportFrom, importer: tuple[str, ...], package: Path) -> Iterator[tuple[str, ...]]:
    """Yield what a statement imports from the package, as parts of dotted names below it."""
    if isinstance(node, ast.Import):
        names = [tuple(alias.name.split(".")) for alias in node.names]
        yield from (name[1:] for name in names if name[0] == package.name)
        return
    base = tuple((node.module or "").split(".")) if node.module else ()
    if node.level:
        base = (*importer[: len(importer) - node.level], *base)
    elif base[:1] == (package.name,):
        base = base[1:]
    else:
        return
    yield from ((*base, alias.name) for alias in node.names)


def _module(name: tuple[str, ...], package: Path) -> tuple[str, ...]:
    """Return the longest part of a dotted name that is a module or a folder; empty if there is none."""
    for end in range(len(name), 0, -1):
        path = package.joinpath(*name[:end])
        if path.is_dir() or path.with_suffix(".py").is_file():
            return name[:end]
    return ()


def arrows(found: list[Import]) -> set[tuple[str, str]]:
    """Return the pairs (room, room that it imports from)."""
    return {(one.room, one.target) for one in found}


def breaches(found: list[Import]) -> list[str]:
    """Return what breaks the rule, one sentence per import; empty if nothing does."""
    return [f"{one}: {why}" for one in found if (why := _breach(one))]


def _breach(one: Import) -> str:
    if one.room not in ROOMS or one.target not in ROOMS:
        return "a room that the list lacks"
    if ROOMS.index(one.target) > ROOMS.index(one.room):
        return f"{one.target} does not stand above {one.room}"
    if one.target in COMMANDS and one.depth > 1 and one.room not in FRONT_DOORS:
        return f"expected: from ..{one.target} import NAME"
    return ""


def picture(found: list[Import]) -> str:
    """Return the picture as SVG: a row and a column per room, a filled cell where the row imports from the column."""
    left, top, cell = 96, 96, 22
    side = cell * len(ROOMS)
    there = arrows(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + side + 16} {top + side + 40}" '
        'font-family="sans-serif" font-size="13">',
        f"<title>{len(ROOMS)} rooms, {len(there)} arrows</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, room in enumerate(ROOMS):
        y, x = top + cell * i, left + cell * i
        shade = "#dbe9f6" if room in LIBRARY else "#e3f1de" if room in COMMANDS else "#f7e6cf"
        parts.append(f'<rect x="{left}" y="{y}" width="{cell * i + cell}" height="{cell}" fill="{shade}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{room}</text>')
        parts.append(f'<text transform="translate({x + 16} {top - 8}) rotate(-60)">{room}</text>')
        parts.append(f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="#888"/>')
    for room, target in sorted(there):
        x, y = left + cell * ROOMS.index(target) + 4, top + cell * ROOMS.index(room) + 4
        parts.append(f'<rect x="{x}" y="{y}" width="{cell - 8}" height="{cell - 8}" rx="3" fill="#234"/>')
    caption = f"A row imports from the columns that are filled: {len(ROOMS)} rooms, {len(there)} arrows."
    parts.append(f'<text x="8" y="{top + side + 26}">{caption}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Print the counts and what breaks the rule; write the picture if a path is given."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("picture", nargs="?", type=Path, metavar="FILE.svg", help="draw the picture into this file")
    file = parser.parse_args().picture
    found = imports()
    wrong = breaches(found)
    print(*wrong, f"{len(ROOMS)} rooms, {len(arrows(found))} arrows, {len(wrong)} breaches of the rule", sep="\n")
    if file is not None:
        file.write_text(picture(found), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
