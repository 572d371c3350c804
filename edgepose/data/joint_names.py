"""Find a skeleton's joints among those of a file, by their names in the usual spellings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from ..core.errors import UsageError
from ..core.skeletons import Skeleton

#: Other names of joints without a side; CrowdPose calls the top of the head "head".
_OTHER_NAMES = {"head_top": ("head", "top head", "top of head")}
#: Spellings of the sides; they stand before or after the name of the joint.
_SIDES = {"left": ("left", "l"), "right": ("right", "r")}
#: Most names in a message.
_MOST_NAMES = 40


def joint_order(names: Sequence[str], skeleton: Skeleton) -> list[int]:
    """Return the positions in ``names`` of the joints of a skeleton, in its order; other joints are left out.

    Case, spaces and punctuation do not matter: ``left_eye``, ``Left eye``, ``LEye``, ``l-eye`` and ``eye.L`` are one.

    Raises:
        UsageError: a joint of the skeleton is not there, or twice. It is not taken as unlabelled: the network would
            predict a joint that it has never seen, and a score would be of fewer joints than its name says.
    """
    keys = [_key(name) for name in names]
    places = {joint: _places(keys, joint) for joint in skeleton.joints}
    if all(len(found) == 1 for found in places.values()):
        return [found[0] for found in places.values()]
    wrong = {
        "missing": [joint for joint, found in places.items() if not found],
        "twice": [joint for joint, found in places.items() if len(found) > 1],
    }
    why = "; ".join(f"{what}: {', '.join(joints)}" for what, joints in wrong.items() if joints)
    listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    raise UsageError(f"the joints {listed}, expected those of {skeleton.name} ({why})")


def _places(keys: Sequence[str], joint: str) -> list[int]:
    """Return where a joint is, by the first of its spellings that occurs."""
    found = ([i for i, key in enumerate(keys) if key == spelling] for spelling in spellings(joint))
    return next(filter(None, found), [])


def spellings(joint: str) -> list[str]:
    """Return the keys of a joint's name, in lower case without spaces and punctuation; its own is the first.

    >>> spellings("left_eye")
    ['lefteye', 'eyeleft', 'leye', 'eyel']
    >>> spellings("head_top")
    ['headtop', 'head', 'tophead', 'topofhead']
    """
    side, _, part = joint.partition("_")
    if side not in _SIDES:
        return [_key(name) for name in (joint, *_OTHER_NAMES.get(joint, ()))]
    return list(chain.from_iterable((word + part, part + word) for word in _SIDES[side]))


def _key(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
