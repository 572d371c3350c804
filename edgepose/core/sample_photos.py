"""Two public-domain photos with people, from scikit-image's wheel: golden crops and the demo need no download.

``camera`` (Lav Varshney, CC0) shows a standing photographer, ``astronaut`` (NASA) a woman from the waist up.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import missing_extra

#: The person's box in each photo: xyxy in pixels.
PEOPLE = {"camera": (0.0, 60.0, 335.0, 512.0), "astronaut": (20.0, 10.0, 420.0, 512.0)}

#: Crops of both photos that come with the package: the first half shows one person, the second the other.
_SHIPPED_CROPS = Path(__file__).parents[1] / "assets" / "ditn_lite.edgepose" / "golden.npz"


def load_photo(name: str) -> NDArray[np.uint8]:
    """Return one of :data:`PEOPLE`'s photos, (512, 512, 3) uint8 RGB.

    Raises:
        UsageError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise missing_extra("skimage") from error
    image = np.asarray(getattr(data, name)())
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image, dtype=np.uint8)


def load_scene() -> NDArray[np.uint8]:
    """Return both persons side by side, uint8 RGB.

    (512, 1024, 3) of the photos; where scikit-image is not installed, (256, 384, 3) of crops of them.
    """
    if find_spec("skimage") is not None:
        people = [load_photo(name) for name in PEOPLE]
    else:
        with np.load(_SHIPPED_CROPS) as arrays:
            crops = arrays["images"]
        people = [crops[0], crops[len(crops) // 2]]
    return np.concatenate(people, axis=1)
