"""Windows in numpy: the positions, weights and labels of MONAI's inferer, in one buffer and without a copy of it."""

import tracemalloc

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import sliding_window_inference
from torch import nn

from benchbench.core.errors import UnsupportedError
from benchbench.measure.sliding_windows import SlidingWindows, gaussian_weights, starts
from benchbench.measure.volume_torch import forward_of_arrays


def network(channels=2, answers=3):
    """One whose answers depend on where in a window a voxel lies, so that the blend of windows matters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(channels, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.Conv3d(4, answers, 1)).eval()


def of_monai(module, image, patch, overlap, exclusive):
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.from_numpy(image)[None], patch, 1, module, overlap=overlap, mode="gaussian"
        )[0]
    return (logits.argmax(0) if exclusive else logits > 0).numpy()


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
@pytest.mark.parametrize(
    ("sides", "patch"),
    [
        ((16, 16, 16), (8, 8, 8)),
        ((17, 9, 23), (8, 8, 8)),
        ((13, 20, 11), (7, 9, 11)),
        ((5, 6, 7), (8, 8, 8)),  # smaller than the patch
        ((5, 21, 8), (8, 8, 8)),  # along one side
    ],
)
def test_labels_are_those_of_monai(sides, patch, overlap, batch, exclusive):
    image = np.random.default_rng(0).standard_normal((2, *sides), np.float32)
    windows = SlidingWindows(patch, overlap=overlap, batch=batch, exclusive=exclusive)
    found = windows.label(forward_of_arrays(network()), image)
    assert np.array_equal(found, of_monai(network(), image, patch, overlap, exclusive))


@pytest.mark.parametrize("patch", [(8, 8, 8), (7, 12, 5), (1, 4, 4), (128, 96, 64)])
def test_weights_are_those_of_monai_with_their_floor(patch):
    wanted = compute_importance_map(patch, mode="gaussian").numpy()
    found = gaussian_weights(patch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found.min() >= np.float32(1e-3)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_windows_begin_where_those_of_monai_do(overlap):
    for side in range(8, 40):
        step = 8 if side == 8 else max(1, int(8 * (1 - overlap)))
        assert starts(side, 8, overlap) == [place.start for (place,) in dense_patch_slices((side,), (8,), (step,))]


def test_what_fills_up_the_last_batch_is_dropped():
    image = np.random.default_rng(0).standard_normal((2, 16, 8, 8), np.float32)  # three windows
    forward, seen = forward_of_arrays(network()), []

    def fixed(windows):
        seen.append(windows.shape)
        return forward(windows)

    found = SlidingWindows((8, 8, 8), batch=2, whole_batches=True).label(fixed, image)
    assert seen == [(2, 2, 8, 8, 8)] * 2
    assert np.array_equal(found, SlidingWindows((8, 8, 8)).label(forward, image))


@pytest.mark.parametrize("exclusive", [False, True])
def test_no_second_buffer_of_the_volumes_size_is_made(exclusive):
    image = np.random.default_rng(0).standard_normal((1, 64, 64, 64), np.float32)
    answer = np.random.default_rng(1).standard_normal((1, 4, 16, 16, 16), np.float32)
    windows = SlidingWindows((16, 16, 16), exclusive=exclusive)
    tracemalloc.start()
    label = windows.label(lambda window: answer, image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * (4 * 4 * 64**3) + label.nbytes


def test_neither_the_volume_nor_what_the_network_keeps_is_changed():
    kept = np.random.default_rng(0).standard_normal((1, 3, 8, 8, 8), np.float32)
    image, before = np.ones((2, 12, 8, 8), np.float32), kept.copy()
    SlidingWindows((8, 8, 8)).label(lambda windows: kept, image)
    assert np.array_equal(kept, before)
    assert (image == 1).all()


@pytest.mark.parametrize(
    ("shape", "told"), [((1, 3), "no dense output.*1x3"), ((1, 3, 4, 4, 4), "4x4x4 voxels to a patch of 8x8x8")]
)
def test_an_answer_that_is_no_segmentation_of_the_patch_is_refused(shape, told):
    with pytest.raises(UnsupportedError, match=told):
        SlidingWindows((8, 8, 8)).label(lambda windows: np.ones(shape, np.float32), np.ones((2, 8, 8, 8), np.float32))
