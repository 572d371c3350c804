"""The people that come without a download."""

from __future__ import annotations

import numpy as np
import pytest

from edgepose.core import sample_photos
from edgepose.core.geometry import crop_boxes
from edgepose.core.sample_photos import PEOPLE, load_photo, load_scene


def test_the_scene_shows_both_photos() -> None:
    pytest.importorskip("skimage")
    scene = load_scene()
    assert scene.shape == (512, 1024, 3)
    for i, name in enumerate(PEOPLE):
        np.testing.assert_array_equal(scene[:, 512 * i : 512 * (i + 1)], load_photo(name))


def test_without_scikit_image_the_scene_shows_crops_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_photos, "find_spec", lambda _: None)
    scene = load_scene()
    assert scene.shape == (256, 384, 3)
    assert scene.dtype == np.uint8
    grey, suit = scene[:, :192].astype(int), scene[150:250, 240:340].reshape(-1, 3).mean(axis=0)
    assert np.abs(grey[..., 0] - grey[..., 2]).max() == 0
    assert suit[0] > suit[2] + 30  # orange, in RGB


def test_the_crops_are_those_of_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    want = [crop_boxes(load_photo(name), [box], (256, 192))[0][0] for name, box in PEOPLE.items()]
    monkeypatch.setattr(sample_photos, "find_spec", lambda _: None)
    np.testing.assert_allclose(load_scene().astype(int), np.concatenate(want, axis=1), atol=4)  # OpenCV 4 and 5 differ
