"""The test protocols of the papers' tables: with the flip test or without it."""

from __future__ import annotations

#: Beginning of a network's name, to where it is said that the tables of its paper average with the mirrored crop.
_FLIPPED = {
    "hrnet_w": "the tables of HRNet's official code",
    "simplebaseline_r": "the tables of HRNet's official code",
    "ditn_": "DITN, section 4.1.2",
    "sg_hrnet_": "SG-HRNet, section 4.3",
    "hsrnet_": "the tables of HSR-MSNet's own code",
    "hsr_msnet_": "the tables of HSR-MSNet's own code",
}


def published_flip(model: str) -> tuple[bool, str]:
    """Return whether the tables of a network's paper use the flip test, and where that is said.

    All of them decode with the quarter offset. The slim variants are this project's own.

    >>> published_flip("sg_hrnet_w32")
    (True, 'SG-HRNet, section 4.3')
    >>> published_flip("ditn_lite")
    (False, "ditn_lite is in no paper's table")
    """
    if not model.endswith("_lite"):
        for beginning, source in _FLIPPED.items():
            if model.startswith(beginning):
                return True, source
    return False, f"{model} is in no paper's table"
