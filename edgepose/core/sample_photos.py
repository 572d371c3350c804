"""Two public-domain photos with people, from scikit-image's wheel: golden crops and the demo need no download.

``camera`` (Lav Varshney, CC0) shows a standing photographer, ``astronaut`` (NASA) a woman from the waist up.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import missing_extra

#: The person's box in each photo: xyxy in pixels.
PEOPLE = {"camera": (0.0, 60.0, 335.0, 512.0), "astronaut": (20.0, 10.0, 420.0, 512.0)}


def load_photo(name: str) -> NDArray[np.uint8]:
    """One of :data:`PEOPLE`'s photos, (512, 512, 3) uint8 RGB.

    Raises:
        UsageError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise missing_extra("skimage") from error
    image = np.asarray(getattr(data, name)())
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image, dtype=np.uint8)
