"""Whole volumes: windows counted as MONAI cuts them, a crop that loses nothing, and what is outside the network."""

import numpy as np
import pytest
import torch
from torch import nn

from benchbench.core.errors import UnsupportedError
from benchbench.core.protocol import get_protocol
from benchbench.data import Case
from benchbench.measure import volume
from tests import tiny_nets

PROTOCOL = get_protocol("quick,min_samples=2,max_samples=2,warmup_s=0")


def plan(patch=(8, 8, 8), batch=1, overlap=0.5, crop=False):
    return volume.Plan(patch=patch, batch=batch, overlap=overlap, crop_foreground=crop)


@pytest.mark.parametrize(
    ("sides", "patch", "overlap", "windows"),
    [
        ((8, 8, 8), (8, 8, 8), 0.5, 1),
        ((4, 5, 6), (8, 8, 8), 0.5, 1),  # smaller than the patch: padded
        ((16, 8, 8), (8, 8, 8), 0.5, 3),
        ((17, 9, 8), (8, 8, 8), 0.5, 8),
        ((16, 16, 16), (8, 8, 8), 0.0, 8),
        ((12, 8, 8), (8, 8, 8), 0.9, 5),  # int(8 * 0.1) is 0: the step is 1
    ],
)
def test_windows_are_those_that_the_inferer_runs(sides, patch, overlap, windows):
    run = volume.Inference(tiny_nets.Tiny().eval(), volume.random_volume(4, sides), plan(patch, 2, overlap))
    out = run()
    assert volume.windows_of(sides, patch, overlap) == run.windows == windows
    assert out.shape == (1, 3, *sides)
    assert out.dtype == torch.bool


def test_a_crop_gives_the_same_labels_inside_its_box_and_none_outside():
    x = torch.zeros(1, 4, 16, 16, 16)
    x[:, :, 3:11, 4:12, 5:13] = torch.rand(1, 4, 8, 8, 8) + 0.1
    module = nn.Conv3d(4, 3, 1).eval()
    whole = volume.Inference(module, x, plan())()
    run = volume.Inference(module, x, plan(crop=True))
    cropped = run()
    box = (slice(None), slice(None), slice(3, 11), slice(4, 12), slice(5, 13))
    assert torch.equal(cropped[box], whole[box])
    assert cropped.sum() == cropped[box].sum()
    assert run.left_share == 8**3 / 16**3
    assert run.windows == 1


def test_an_empty_volume_is_not_cropped_away():
    run = volume.Inference(tiny_nets.Tiny().eval(), torch.zeros(1, 4, 8, 8, 8), plan(crop=True))
    assert run().shape == (1, 3, 8, 8, 8)
    assert run.left_share == 1


def test_a_volume_has_its_time_its_windows_its_memory_and_the_share_outside_the_network():
    result = volume.measure_volume(tiny_nets.Lists().eval(), volume.random_volume(4, (12, 8, 8)), plan(), PROTOCOL)
    found = {m.metric: m for m in result.measurements}
    assert set(found) == {
        "volume_latency_s",
        "volume_windows",
        "volume_outside_share",
        "volume_peak_memory_bytes",
    }
    assert len(found["volume_latency_s"].values) == 2
    assert found["volume_windows"].value == 2
    assert 0 <= found["volume_outside_share"].value <= 1
    assert found["volume_peak_memory_bytes"].value > 1e6
    assert "overlap 0.5" in found["volume_latency_s"].method
    assert "12x8x8" in found["volume_latency_s"].method
    assert result.spent_s >= sum(found["volume_latency_s"].values)


@pytest.fixture
def small_phantom(monkeypatch):
    image = np.zeros((4, 10, 12, 10), np.float32)
    image[:, 2:8, 3:9, 2:8] = 1.5
    case = Case(id="small", image=image, label=np.zeros(image.shape[1:], np.uint8), affine=np.eye(4))
    monkeypatch.setattr(volume, "load_case", lambda *_: case)


def test_the_crop_is_measured_on_the_phantom_and_names_the_whole_volumes_windows(small_phantom):
    x = volume.phantom_volume(4)
    result = volume.measure_volume(tiny_nets.Tiny().eval(), x, plan(crop=True), PROTOCOL)
    found = {m.metric: m for m in result.measurements}
    assert found["volume_windows"].value == 1
    assert "the whole volume has 8" in found["volume_windows"].method
    assert found["volume_cropped_share"].value == pytest.approx(6**3 / (10 * 12 * 10))


def test_the_phantom_is_resized_and_stays_zero_outside_the_head(small_phantom):
    x = volume.phantom_volume(4, (20, 24, 20))
    assert x.shape == (1, 4, 20, 24, 20)
    assert (x != 0).any(1).sum() == 12**3
    assert float(x.max()) == pytest.approx(1.5)


def test_a_network_with_other_channels_has_no_foreground_to_crop():
    with pytest.raises(UnsupportedError, match="takes 1"):
        volume.phantom_volume(1)


def test_a_classifier_has_no_segmentation_of_a_volume():
    run = volume.Inference(tiny_nets.Classifies().eval(), volume.random_volume(4, (8, 8, 8)), plan())
    with pytest.raises(UnsupportedError, match="no dense output"):
        run()
