"""Find the category of persons in a COCO-style file, and the order of its joints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from .samples import first_five

#: Id of the category "person" in COCO's files and in results.
PERSON = 1


@dataclass(frozen=True)
class Category:
    """A category of a COCO-style file.

    Attributes:
        number: its id.
        name: its name, such as ``person``.
        has_joints: whether it lists joints.
        joints: their names; empty if it lists none, or only numbers.
    """

    number: int
    name: str = ""
    has_joints: bool = False
    joints: tuple[str, ...] = ()

    def holds(self, annotation: dict[str, Any]) -> bool:
        """Return whether an annotation is of this category, or of none."""
        number = annotation.get("category_id")
        return number is None or whole_number(number) == self.number

    def __str__(self) -> str:
        return f"{self.number} {self.name!r}" + (" with joints" if self.has_joints else "")


def whole_number(value: Any) -> int | None:
    """Parse an id, which some tools write as text; return None if it is not an integer.

    >>> whole_number("000139"), whole_number(139.0), whole_number(0.5), whole_number("a")
    (139, 139, None, None)
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(value, float) and number != value else number


def person_category(path: Path, content: dict[str, Any]) -> Category:
    """Return the category of the persons of a COCO-style file: ``content`` of the file ``path``, for the message.

    It is the only one that lists joints, or else the one called "person", in any case. A file in which neither is
    listed has the persons in the category of its annotations with joints, or in 1 if there are several of them.

    Raises:
        UsageError: several categories list joints, or none does and the persons' cannot be told.
    """
    listed = content.get("categories")
    found = [_read(entry) for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    every = list({category.number: category for category in found if category}.values())
    with_joints = [category for category in every if category.has_joints]
    if len(with_joints) == 1:
        return with_joints[0]
    called = [category for category in with_joints or every if category.name.strip().lower() == "person"]
    if len(called) == 1:
        return called[0]
    numbers = (whole_number(a.get("category_id", PERSON)) for a in content["annotations"] if a.get("keypoints"))
    used = {number for number in numbers if number is not None}
    if not with_joints and (len(used) < 2 or PERSON in used):
        return Category(used.pop() if len(used) == 1 else PERSON)
    there = first_five([str(category) for category in every]) or "none"
    raise UsageError(
        f"{path} has the categories {there}: expected one with joints, or one of these called 'person': rename that of "
        "the persons"
    )


def _read(entry: dict[str, Any]) -> Category | None:
    """Return a category; None if it has no id."""
    number, joints = whole_number(entry.get("id")), entry.get("keypoints")
    if number is None:
        return None
    names = tuple(map(str, joints)) if isinstance(joints, list) else ()
    numbered = all(name.strip().isdigit() for name in names)  # as CVAT calls points that were not given names
    return Category(number, str(entry.get("name")), bool(names), () if numbered else names)
