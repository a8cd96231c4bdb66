"""Dice of a network: the numbers agree with MONAI's, the rules are BraTS', the pictures are the same each time."""

from __future__ import annotations

import dataclasses
import io
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch import Tensor, nn

from benchbench import data
from benchbench.core.errors import BenchError, DataError, UsageError
from benchbench.training import case_pictures
from benchbench.training import evaluate as training_evaluate
from benchbench.training.evaluate import measure_dice
from benchbench.training.metrics import region_dice
from benchbench.training.sliding_window import AccuracyError, logits_of, regions_of

SHAPE = (20, 24, 18)


def make_case(index: int, shape: tuple[int, int, int] = SHAPE) -> data.Case:
    """A box of tumour in a box of brain; the first channel holds the label, so that a network can be perfect."""
    rng = np.random.default_rng(index)
    label = np.zeros(shape, np.uint8)
    label[5:15, 6:16, 4:12] = 2
    label[7:12, 8:14, 5:10] = 1
    label[8:10, 9 : 11 + index % 3, 6:9] = 3
    image = rng.normal(0, 0.05, (4, *shape)).astype(np.float32)
    image[0] = label
    return data.Case(id=f"toy-test-{index:03d}", image=image, label=label, affine=np.eye(4))


@pytest.fixture(autouse=True)
def toy_data(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(data.get_plan("phantom"), name="toy", splits=MappingProxyType({"test": 4, "val": 1}))
    monkeypatch.setattr(training_evaluate, "get_plan", lambda name: plan if name == "toy" else data.get_plan(name))
    monkeypatch.setattr(training_evaluate, "load_case", lambda name, split, index: make_case(index))


class Oracle(nn.Module):
    """Logits of the regions TC, WT, ET, read off the first channel."""

    def __init__(self, wrong_from: int | None = None) -> None:
        super().__init__()
        self.wrong_from, self.seen = wrong_from, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        label = x[:, 0].round()
        logits = torch.stack([(label == 1) | (label == 3), label > 0, label == 3], 1).float() * 20 - 10
        if self.wrong_from is not None:
            logits[:, 1, self.wrong_from :] = -10
        return logits


def by_name(result: training_evaluate.AccuracyResult) -> dict[str, training_evaluate.Measurement]:
    return {m.metric: m for m in result.measurements}


def test_perfect_network_has_dice_one() -> None:
    result = measure_dice(Oracle(), data="toy", spatial=(32, 32, 32))
    found = by_name(result)
    assert list(found) == [
        *("dice", "dice_tc", "dice_wt", "dice_et"),
        *("hd95_mm", "hd95_tc_mm", "hd95_wt_mm", "hd95_et_mm"),
        *("nsd_1mm", "nsd_1mm_tc", "nsd_1mm_wt", "nsd_1mm_et"),
    ]
    for name, m in found.items():
        best = 0.0 if name.startswith("hd95") else 1.0
        assert (m.value, m.values, m.ci95) == (best, (best,) * 4, (best, best))
        assert m.unit == ("mm" if name.startswith("hd95") else "1")


def test_small_volume_is_one_window_in_the_middle_of_zeros() -> None:
    oracle = Oracle()
    measure_dice(oracle, data="toy", spatial=(32, 32, 32), limit=1)
    assert oracle.seen == [(1, 4, 32, 32, 32)]
    # from voxel 16 of the padded volume on, WT is missing: voxel 10 of the case, whose WT spans 5 to 14
    half = by_name(measure_dice(Oracle(wrong_from=16), data="toy", spatial=(32, 32, 32), limit=1))
    assert half["dice_wt"].value == pytest.approx(2 * 5 / (5 + 10))
    assert half["dice_tc"].value == 1


@pytest.mark.parametrize("spatial", [(16, 16, 16), (32, 16, 16), (8, 24, 18)])
def test_windows_cover_a_larger_volume(spatial: tuple[int, int, int]) -> None:
    oracle = Oracle()
    found = by_name(measure_dice(oracle, data="toy", spatial=spatial, limit=2))
    assert found["dice"].value == 1
    assert {shape[2:] for shape in oracle.seen} == {spatial}
    assert len(oracle.seen) > 2


def test_a_crop_evaluates_the_box_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def headed(name: str, split: str, index: int) -> data.Case:
        case = make_case(index)
        case.image[:, :4] = case.image[:, :, :, 14:] = 0
        return case

    class Above(Oracle):
        """Sees tumour in air, too: what a crop to the head never shows it."""

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            logits[:, 1][(x == 0).all(1)] = 10
            return logits

    monkeypatch.setattr(training_evaluate, "load_case", headed)
    network = Above()
    cropped = by_name(measure_dice(network, data="toy", spatial=(16, 24, 14), limit=1, crop_foreground=True))
    assert network.seen == [(1, 4, 16, 24, 14)]
    assert cropped["dice_wt"].value == 1
    assert "over the box of the voxels that are not 0" in cropped["dice"].method
    whole = by_name(measure_dice(network, data="toy", spatial=(16, 24, 14), limit=1))
    assert whole["dice_wt"].value < 0.5
    assert "box" not in whole["dice"].method


def test_a_crop_leaves_background_outside_where_labels_exclude_each_other() -> None:
    plan = dataclasses.replace(data.get_plan("phantom"), regions={"a": (1,), "b": (2,)}, exclusive=True)
    image = np.zeros((4, 8, 8, 8), np.float32)
    image[:, 2:6, 2:6, 2:6] = 1
    logits = logits_of(AllB(), image, plan, (4, 4, 4), crop_foreground=True)
    _, b = regions_of(logits, plan)
    assert b.sum() == b[2:6, 2:6, 2:6].sum() == 4**3


class AllB(nn.Module):
    """Sees the second region everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 3, *x.shape[2:]).index_fill(1, torch.tensor([2]), 1.0)


masks = hnp.arrays(bool, (3, 3, 4, 2), elements=st.booleans())


@settings(deadline=None, max_examples=60)
@given(masks, masks)
def test_dice_agrees_with_monai_where_the_reference_is_not_empty(a: np.ndarray, b: np.ndarray) -> None:
    from monai.metrics import compute_dice

    theirs = compute_dice(torch.from_numpy(a)[None].float(), torch.from_numpy(b)[None].float(), include_background=True)
    ours, full = region_dice(a, b), b.any((1, 2, 3))
    assert ours[full] == pytest.approx(theirs[0].numpy()[full], abs=1e-6)
    assert np.array_equal(region_dice(a, b), region_dice(b, a))
    assert ((ours >= 0) & (ours <= 1)).all()


def test_empty_regions_count_as_brats_counts_them() -> None:
    empty, full = np.zeros((1, 2, 2, 2), bool), np.ones((1, 2, 2, 2), bool)
    assert region_dice(empty, empty) == [1.0]
    assert region_dice(full, empty) == [0.0]
    assert region_dice(empty, full) == [0.0]
    method = by_name(measure_dice(Oracle(), data="toy", spatial=(32, 32, 32)))["dice"].method
    assert "empty region: 1 if the answer is empty too, else 0" in method


def test_method_says_what_the_figure_is_of() -> None:
    method = by_name(measure_dice(Oracle(), data="toy", spatial=(32, 32, 32), limit=3))["dice_et"].method
    assert all(part in method for part in ("toy", "semi-synthetic", "test", "3 cases", "32x32x32", "sigmoid > 0.5"))


def test_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    first, second = (
        by_name(measure_dice(Oracle(wrong_from=16), data="toy", spatial=(32, 32, 32)))["dice"] for _ in range(2)
    )
    assert first == second
    assert first.ci95 is not None
    assert first.ci95[0] <= first.value <= first.ci95[1]
    assert first.value == pytest.approx(np.mean(first.values))
    assert (first.origin, first.unit) == ("measured", "1")


def test_one_case_has_no_interval() -> None:
    assert by_name(measure_dice(Oracle(), data="toy", split="val", spatial=(32, 32, 32)))["dice"].ci95 is None


def test_answers_that_are_not_finite_are_refused() -> None:
    class Broken(Oracle):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    with pytest.raises(AccuracyError, match="not finite") as caught:
        measure_dice(Broken(), data="toy", spatial=(32, 32, 32))
    assert isinstance(caught.value, BenchError)


def test_wrong_number_of_outputs_is_said() -> None:
    class Two(Oracle):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :2]

    with pytest.raises(AccuracyError, match=r"2 output channels and toy has 3 regions \(tc, wt, et\)"):
        measure_dice(Two(), data="toy", spatial=(32, 32, 32))


def test_deep_supervision_counts_by_its_first_output() -> None:
    class Deep(Oracle):
        def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
            logits = super().forward(x)
            return [logits, nn.functional.avg_pool3d(logits, 2)]

    assert by_name(measure_dice(Deep(), data="toy", spatial=(32, 32, 32), limit=1))["dice"].value == 1


def test_network_is_measured_in_eval_mode_and_left_as_it_was() -> None:
    class Noisy(Oracle):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return super().forward(x)

    network = Noisy().train()
    measure_dice(network, data="toy", spatial=(32, 32, 32), limit=1)
    assert network.training


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"data": "nothing"}, DataError, "unknown data set 'nothing'"),
        ({"split": "dev"}, DataError, "no split 'dev'"),
        ({"overlap": 1.0}, UsageError, "below 1, not 1.0"),
        ({"limit": 0}, UsageError, "at least 1, not 0"),
        ({"dtype": "int8"}, UsageError, "fp32, bf16, fp16, not 'int8'"),
    ],
)
def test_bad_requests_are_refused(wrong: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        measure_dice(Oracle(), **({"data": "toy", "spatial": (32, 32, 32)} | wrong))  # type: ignore[arg-type]


def test_progress_is_told_after_each_case() -> None:
    told: list[tuple[int, int]] = []
    measure_dice(Oracle(), data="toy", spatial=(32, 32, 32), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_bf16_changes_the_arithmetic_and_not_a_clear_answer() -> None:
    assert by_name(measure_dice(Oracle(), data="toy", spatial=(32, 32, 32), dtype="bf16"))["dice"].value == 1


def test_pictures_are_of_best_median_and_worst_and_equal_each_time() -> None:
    first, second = (measure_dice(Oracle(wrong_from=14), data="toy", spatial=(32, 32, 32)) for _ in range(2))
    assert [p.name for p in first.pictures] == ["best.png", "median.png", "worst.png"]
    assert first.pictures == second.pictures
    dice = by_name(first)["dice"].values
    assert f"Dice {max(dice):.3f}" in first.pictures[0].title
    assert f"Dice {min(dice):.3f}" in first.pictures[2].title


def test_picture_shows_two_contrasts_label_and_prediction() -> None:
    wrong = measure_dice(Oracle(wrong_from=0), data="toy", spatial=(32, 32, 32)).pictures[0]
    with Image.open(io.BytesIO(wrong.png)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        assert image.size == (4 * SHAPE[0] * 4, SHAPE[1] * 4)  # small volumes are shown larger
        assert "Software" not in image.info
    coloured = np.ptp(pixels, axis=2) > 30
    panels = np.split(coloured, 4, axis=1)
    assert not panels[0].any()
    assert not panels[1].any()
    assert panels[2].sum() > panels[3].sum() > 0, "the prediction lacks WT outside of TC"


def test_picture_of_a_phantom_case_is_small() -> None:
    case = data.load_case("phantom", "test", 0)
    plan = data.get_plan("phantom")
    shot = case_pictures.middle_slice(case, plan.to_regions(case.label), plan)
    assert len(case_pictures.montage(shot, plan)) < 60_000


class LeftOnly(Oracle):
    """Sees nothing in the upper half of the first axis."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        logits[:, :, x.shape[2] // 2 :] = -1
        return logits


@pytest.mark.parametrize(("mirror", "windows"), [((), 1), ((0,), 2), ((1,), 2), ((0, 1, 2), 8)])
def test_windows_are_mirrored_along_the_axes_that_are_asked_for(mirror: tuple[int, ...], windows: int) -> None:
    network = LeftOnly()
    found = by_name(measure_dice(network, data="toy", spatial=(20, 24, 18), limit=1, mirror=mirror))
    assert len(network.seen) == windows
    assert (found["dice_wt"].value == 1) == (0 in mirror)
    assert ("mirror images" in found["dice"].method) == bool(mirror)
