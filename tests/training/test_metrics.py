"""Dice, Hausdorff and surface Dice against a second implementation, and the rules for empty regions."""

import numpy as np
import pytest
from scipy import ndimage

from benchbench.core.errors import UsageError
from benchbench.training.metrics import BRATS_MM, region_dice, score

SPACING = (1.0, 1.5, 3.0)


def surface(mask):
    return mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1))


def distances(a, b, spacing):
    """By distance transforms: of each surface voxel of a to the surface of b, and the other way round."""
    found = []
    for mine, other in ((a, b), (b, a)):
        away = ndimage.distance_transform_edt(~surface(other), sampling=spacing)
        found.append(away[surface(mine)])
    return found


def hd95(a, b, spacing):
    return max(np.percentile(d, 95) for d in distances(a, b, spacing))


def nsd(a, b, spacing, tolerance):
    both = distances(a, b, spacing)
    return sum((d <= tolerance).sum() for d in both) / sum(map(len, both))


def blob(seed, sides=(14, 12, 10), level=0.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=sides), 1.5)
    return noise > level * noise.std()


def full(*boxes, sides=(14, 12, 10)):
    mask = np.zeros(sides, bool)
    for box in boxes:
        mask[tuple(slice(lo, hi) for lo, hi in box)] = True
    return mask


BOX = ((3, 8), (3, 8), (3, 8))
PATHOLOGICAL = {
    "equal": (full(BOX), full(BOX)),
    "one voxel each, far apart": (full(((0, 1),) * 3), full(((13, 14), (11, 12), (9, 10)))),
    "one voxel in a box": (full(BOX), full(((5, 6),) * 3)),
    "touching the border": (full(((0, 4), (0, 12), (0, 10))), full(((0, 5), (0, 12), (0, 10)))),
    "everything against a box": (np.ones((14, 12, 10), bool), full(BOX)),
    "a shell": (full(BOX) & ~full(((4, 7),) * 3), full(BOX)),
    "two pieces": (full(BOX, ((11, 13), (9, 11), (7, 9))), full(BOX)),
    "a plate": (full(((5, 6), (0, 12), (0, 10))), full(((7, 8), (0, 12), (0, 10)))),
}


def check(a, b, spacing=SPACING, tolerance=2.0):
    found = score(a[None], b[None], spacing_mm=spacing, tolerance_mm=tolerance)
    assert found.dice[0] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert found.hd95_mm[0] == pytest.approx(hd95(a, b, spacing), abs=1e-4)
    assert found.nsd[0] == pytest.approx(nsd(a, b, spacing, tolerance), abs=1e-6)
    back = score(b[None], a[None], spacing_mm=spacing, tolerance_mm=tolerance)
    assert back.hd95_mm[0] == pytest.approx(found.hd95_mm[0])


@pytest.mark.parametrize("seed", range(12))
def test_random_masks(seed):
    check(blob(seed, level=0.3), blob(seed + 100, level=0.1))


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_pathological_masks(name):
    check(*PATHOLOGICAL[name])


def test_a_shift_is_its_length_in_millimetres():
    a, b = full(((3, 8), (3, 8), (3, 6))), full(((3, 8), (3, 8), (4, 7)))
    found = score(a[None], b[None], spacing_mm=SPACING, tolerance_mm=1.0)
    assert found.hd95_mm[0] == pytest.approx(3.0)


class TestEmpty:
    empty, box = full()[None], full(BOX)[None]

    def test_brats(self):
        both = score(self.empty, self.empty, spacing_mm=SPACING, rule="brats")
        assert (both.dice[0], both.hd95_mm[0], both.nsd[0]) == (1, 0, 1)
        for pair in ((self.empty, self.box), (self.box, self.empty)):
            one = score(*pair, spacing_mm=SPACING, rule="brats")
            assert (one.dice[0], one.hd95_mm[0], one.nsd[0]) == (0, BRATS_MM, 0)

    def test_exclude(self):
        both = score(self.empty, self.empty, spacing_mm=SPACING, rule="exclude")
        assert np.isnan([both.dice[0], both.hd95_mm[0], both.nsd[0]]).all()
        diagonal = np.linalg.norm(np.array(self.empty.shape[1:]) * SPACING)
        for pair in ((self.empty, self.box), (self.box, self.empty)):
            one = score(*pair, spacing_mm=SPACING, rule="exclude")
            assert (one.dice[0], one.nsd[0]) == (0, 0)
            assert one.hd95_mm[0] == pytest.approx(diagonal)

    def test_an_unknown_rule(self):
        with pytest.raises(UsageError, match="did you mean 'brats'"):
            score(self.box, self.box, spacing_mm=SPACING, rule="brast")


def test_regions_are_scored_by_themselves():
    a = np.stack([full(BOX), full(), full(BOX)])
    b = np.stack([full(BOX), full(BOX), full()])
    assert region_dice(a, b).tolist() == [1, 0, 0]
    assert score(a, b, spacing_mm=SPACING).hd95_mm.tolist() == [0, BRATS_MM, BRATS_MM]
