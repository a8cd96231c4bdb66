"""Whole volumes: windows counted as MONAI cuts them, a crop that loses nothing, and what is outside the network."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from benchbench.core.errors import UnsupportedError
from benchbench.core.protocol import get_protocol
from benchbench.data import Case
from benchbench.measure import volume
from benchbench.measure.volume_torch import GpuInference, forward_of_arrays
from tests import tiny_nets

PROTOCOL = get_protocol("quick,min_samples=2,max_samples=2,warmup_s=0")


def plan(patch=(8, 8, 8), batch=1, overlap=0.5, crop=False, exclusive=False):
    return volume.Plan(patch=patch, batch=batch, overlap=overlap, crop_foreground=crop, exclusive=exclusive)


def inference(module, x, how):
    return volume.Inference(forward_of_arrays(module.eval()), x, how)


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
    run = inference(tiny_nets.Tiny(), volume.random_volume(4, sides), plan(patch, 2, overlap))
    of_monai = on_gpus_path(tiny_nets.Tiny(), volume.random_volume(4, sides), plan(patch, 2, overlap))
    out = run()
    of_monai()
    assert volume.windows_of(sides, patch, overlap) == run.windows == of_monai.windows == windows
    assert out.shape == (3, *sides)
    assert out.dtype == bool


def on_gpus_path(module, x, how):
    return GpuInference(module.eval(), x, how, device="cpu")


def headed():
    x = np.zeros((4, 16, 16, 16), np.float32)
    x[:, 3:11, 4:12, 5:13] = np.random.default_rng(0).random((4, 8, 8, 8), np.float32) + np.float32(0.1)
    return x


@pytest.mark.parametrize("make", [inference, on_gpus_path])
def test_a_crop_gives_the_same_labels_inside_its_box_and_none_outside(make):
    torch.manual_seed(0)
    x, module = headed(), nn.Conv3d(4, 3, 1)
    whole = np.asarray(make(module, x, plan())())
    run = make(module, x, plan(crop=True))
    cropped = np.asarray(run())
    box = (slice(None), slice(3, 11), slice(4, 12), slice(5, 13))
    assert np.array_equal(cropped[box], whole[box])
    assert cropped.any()
    assert cropped.sum() == cropped[box].sum()
    assert run.left_share == 8**3 / 16**3
    assert run.windows == 1


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_cpu_and_a_gpu_have_the_same_label_map(exclusive):
    module, x = tiny_nets.Tiny(), headed()
    found = [make(module, x, plan(crop=True, exclusive=exclusive))() for make in (inference, on_gpus_path)]
    assert np.array_equal(*map(np.asarray, found))
    assert found[0].shape == ((16, 16, 16) if exclusive else (3, 16, 16, 16))


@pytest.mark.parametrize("make", [inference, on_gpus_path])
def test_an_empty_volume_is_not_cropped_away(make):
    run = make(tiny_nets.Tiny(), np.zeros((4, 8, 8, 8), np.float32), plan(crop=True))
    assert run().shape == (3, 8, 8, 8)
    assert run.left_share == 1


def test_a_volume_has_its_time_its_windows_its_memory_and_the_share_outside_the_network():
    result = volume.measure_volume(inference(tiny_nets.Lists(), volume.random_volume(4, (12, 8, 8)), plan()), PROTOCOL)
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
    return image


def test_the_crop_is_measured_on_a_case_and_names_the_whole_volumes_windows(small_phantom):
    x = volume.foreground_case("phantom", 4)
    result = volume.measure_volume(inference(tiny_nets.Tiny(), x, plan(crop=True)), PROTOCOL, of="a case of phantom")
    found = {m.metric: m for m in result.measurements}
    assert found["volume_windows"].value == 1
    assert "the whole volume has 8" in found["volume_windows"].method
    assert "a case of phantom" in found["volume_latency_s"].method
    assert found["volume_cropped_share"].value == pytest.approx(6**3 / (10 * 12 * 10))


def test_a_case_is_resized_and_stays_zero_outside_the_head(small_phantom):
    x = volume.foreground_case("phantom", 4, (20, 24, 20))
    assert x.shape == (4, 20, 24, 20)
    assert (x != 0).any(0).sum() == 12**3
    assert float(x.max()) == pytest.approx(1.5)


def test_a_network_with_other_channels_has_no_foreground_to_crop():
    with pytest.raises(UnsupportedError, match="takes 1"):
        volume.foreground_case("phantom", 1)


def test_a_case_without_a_background_of_zeros_is_refused(small_phantom):
    small_phantom[small_phantom == 0] = -0.7
    small_phantom[:, :2, :2, :10] = 0
    with pytest.raises(UnsupportedError, match=r"3\.3% of the voxels of small are exactly 0, and at least 5%"):
        volume.foreground_case("phantom", 4)


@pytest.mark.parametrize("make", [inference, on_gpus_path])
def test_a_classifier_has_no_segmentation_of_a_volume(make):
    run = make(tiny_nets.Classifies(), volume.random_volume(4, (8, 8, 8)), plan())
    with pytest.raises(UnsupportedError, match="no dense output"):
        run()


def test_a_volume_is_segmented_without_pytorch_and_monai_in_the_process():
    code = """
import sys, numpy as np
from benchbench.core.protocol import get_protocol
from benchbench.measure import volume
plan = volume.Plan(patch=(8, 8, 8), overlap=0.5)
run = volume.Inference(lambda x: x[:, :3], volume.random_volume(4, (12, 8, 8)), plan)
volume.measure_volume(run, get_protocol("quick,min_samples=2,max_samples=2,warmup_s=0"))
print(sorted({"torch", "monai", "scipy", "nibabel"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
