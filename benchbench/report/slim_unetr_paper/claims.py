"""Claims of the Slim UNETR paper: as published, worked out again from its own tables, and from our records.

A claim may hold and its number still mean little: the speed ratio is that of one forward timed once, and the Dice
belongs to data that is not here. A verdict therefore says what our records can and cannot say, and never more.

Source of every published figure: Pang et al., "Slim UNETR: Scale Hybrid Transformers to Efficient 3D
Medical Image Segmentation Under Limited Computational Resources", IEEE Transactions on Medical
Imaging, 2023, doi 10.1109/TMI.2023.3326188: its tables (see `published`), and its text for the claims.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.report.audit.tables import AGREES
from benchbench.report.cells import finite, valid
from benchbench.report.conditions import has_phantom_dice, input_text
from benchbench.report.slim_unetr_paper.published import figure

_SLIM, _SWIN = "slim_unetr", "swin_unetr"
_PAPER_INPUT = "1 x 4 x 128x128x128"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim, three ways."""

    claim: str
    published: str
    recomputed: str  # from the paper's own tables
    ours: str
    origin: rec.Origin | None  # of `ours`; None: we have no number
    verdict: str


def check(records: Sequence[rec.Record]) -> list[Claim]:
    """The three claims against records of one set of conditions."""
    slim, swin = (next((r for r in records if r.model.name == n and not r.recipe), None) for n in (_SLIM, _SWIN))
    return [_smaller(slim, swin), _faster(slim, swin), _dice(slim)]


def _smaller(slim: rec.Record | None, swin: rec.Record | None) -> Claim:
    swin_m, slim_m = figure(3, _SWIN, "brain_mparams"), figure(3, _SLIM, "brain_mparams")
    published = float(swin_m) / float(slim_m)
    pair = _pair(slim, swin, "params")
    ours, origin, verdict = "-", None, _missing("params", slim, swin)
    if pair is not None:
        (own, low), (_, high) = pair
        off = high / low / published - 1
        shown = [units.format_value(count, "parameters") for count in (high, low)]
        ours, origin = f"{units.significant(high / low)} x ({' / '.join(shown)})", own.origin
        verdict = f"{'agrees' if abs(off) <= AGREES else 'differs'} with the paper's ratio: {100 * off:+.1f} %"
    return Claim(
        claim="smaller than Swin UNETR (parameters)",
        published="34.6 x",
        recomputed=f"{swin_m} M / {slim_m} M = {published:.1f} x",
        ours=ours,
        origin=origin,
        verdict=verdict,
    )


def _faster(slim: rec.Record | None, swin: rec.Record | None) -> Claim:
    slim_rate, swin_rate = figure(3, _SLIM, "brain_images_per_min"), figure(3, _SWIN, "brain_images_per_min")
    published = float(slim_rate) / float(swin_rate)
    pair = _pair(slim, swin, "latency_s")
    ours, origin, verdict = "-", None, _missing("latency_s", slim, swin)
    if slim is not None and pair is not None:
        (own, fast), (other, slow) = pair
        ratio = slow / fast
        origin = own.origin if own.origin == other.origin else "predicted"
        ends, kind = ratio_interval(other, own)
        ours = units.times(ratio)
        if ends:
            ours += f" ({units.significant(ends[0])} to {units.significant(ends[1])}, {kind})"
        verdict = _speed_verdict(ends or (ratio, ratio), published, origin)
        if input_text(slim) != _PAPER_INPUT:
            verdict += f"; the paper's input is {_PAPER_INPUT}, ours {input_text(slim)}"
    return Claim(
        claim="faster than Swin UNETR",
        published="13.4 x",
        recomputed=f"{slim_rate} / {swin_rate} images per minute = {published:.1f} x",
        ours=ours,
        origin=origin,
        verdict=verdict,
    )


def _speed_verdict(ends: tuple[float, float], published: float, origin: str) -> str:
    if origin != "measured":
        return "nothing was measured here: a prediction cannot confirm or refute it"
    low, high = ends
    if low > published:
        text = "faster by more than claimed on this device"
    elif high < published:
        text = "faster by less than claimed" if low > 1 else "slower" if high < 1 else "not clearly faster"
        text += " on this device"
    else:
        text = "consistent with the claim on this device"
    return f"{text}; a ratio of latencies belongs to the device and the software it was measured with"


def _dice(slim: rec.Record | None) -> Claim:
    classes = [figure(1, _SLIM, f"dice_{region}") for region in ("wt", "tc", "et")]
    mean = sum(map(float, classes)) / len(classes)
    found = valid(slim, "dice")
    if slim is None or found is None or finite(found) is None or found.value is None:
        ours, origin = "-", None
        verdict = f"no Dice here: {found.reason}" if found and found.reason else f"no Dice of {_SLIM} in these records"
    else:
        data = slim.workload.data or "data that the record does not name"
        ours, origin = f"{100 * found.value:.2f} % on {data}", found.origin
        if has_phantom_dice(slim):
            verdict = "not comparable: ours is of a semi-synthetic phantom, theirs of BraTS2021"
        elif "brats2021" not in data.lower():
            verdict = "not comparable: ours is not of BraTS2021"
        else:
            verdict = "the paper's split and training are not ours: comparable with care"
    return Claim(
        claim="average Dice of Slim UNETR on BraTS2021",
        published="92.44 %",
        recomputed=f"mean of {', '.join(classes)} % = {mean:.2f} %",
        ours=ours,
        origin=origin,
        verdict=verdict,
    )


def ratio_interval(top: rec.Measurement, bottom: rec.Measurement) -> tuple[tuple[float, float] | None, str]:
    """Where `top / bottom` may lie, and what kind of interval that is.

    The ends are divided crosswise, which is wider than an interval of the ratio itself would be.
    """
    for over, under, kind in (
        (top.interval, bottom.interval, "predicted range"),
        (top.ci95, bottom.ci95, "from both 95 % CIs"),
        (_sample_range(top), _sample_range(bottom), "from both ranges of samples"),
    ):
        if over and under and under[0] > 0:
            return (over[0] / under[1], over[1] / under[0]), kind
    return None, ""


def _sample_range(m: rec.Measurement) -> tuple[float, float] | None:
    return (min(m.values), max(m.values)) if len(m.values) > 1 else None


def _pair(
    slim: rec.Record | None, swin: rec.Record | None, metric: str
) -> tuple[tuple[rec.Measurement, float], tuple[rec.Measurement, float]] | None:
    """Both measurements with their values; None where one is missing."""
    pick = rec.Record.get if metric == "params" else valid  # a count needs no run that ended well
    own, other = (finite(pick(r, metric)) if r else None for r in (slim, swin))
    if not own or not other or not own.value or not other.value:
        return None
    return (own, float(own.value)), (other, float(other.value))


def _missing(metric: str, slim: rec.Record | None, swin: rec.Record | None) -> str:
    gone = [name for name, r in ((_SLIM, slim), (_SWIN, swin)) if _pair(r, r, metric) is None]
    name = {"params": "parameter count", "latency_s": "latency"}[metric]
    return f"not checked: these records hold no {name} of {' and '.join(gone)}"
