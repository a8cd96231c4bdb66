"""Foreground of an image whose background is 0."""

import numpy as np
import pytest

from benchbench.data.foreground import foreground_box, zero_share


def test_the_box_holds_all_that_is_not_zero_in_any_channel_and_no_more():
    image = np.zeros((2, 9, 8, 7), np.float32)
    image[0, 2, 3, 4] = 1
    image[1, 6, 5, 1] = -1
    assert foreground_box(image) == (slice(2, 7), slice(3, 6), slice(1, 5))


def test_an_image_of_zeros_has_no_box():
    assert foreground_box(np.zeros((2, 4, 4, 4), np.float32)) is None


def test_only_voxels_that_are_zero_in_every_channel_are_background():
    image = np.zeros((2, 4, 4, 4), np.float32)
    image[0, :2] = 1
    image[1, 1:3] = 1
    assert zero_share(image) == pytest.approx(0.25)
