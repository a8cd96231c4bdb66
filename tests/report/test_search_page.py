"""Page of a search: the network to take and what it saves first, the controls, the front, and folds for the rest."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchbench.report import render_search, search_answer
from benchbench.report.figures import search as figures_search

SEARCHED = Path(__file__).parents[2] / "results" / "reference" / "search-hippocampus-parent"
CHEAP, BEST, PLAIN = "slim_unetr_fixed-060d9d", "slim_unetr_fixed-e1497c", "slim_unetr-e7d96b"


def searched(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SEARCHED / "search.json").read_text())
    return found | changes


def compared(kind: str, point: str, gain: float, verdict: str = "better", **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "point": point,
        "name": "slim_unetr",
        "dice": 0.83,
        "other_dice": 0.83 - gain,
        "gain": gain,
        "ci95": [gain - 0.005, gain + 0.005],
        "cases": 44,
        "seeds": 1,
        "verdict": verdict,
        **more,
    }


def of_today(**changes: Any) -> dict[str, Any]:
    """The committed search as one of schema 2: the published network is not among the points."""
    found = searched()
    points = [point for point in found["points"] if not point["published"]]
    (plain,) = (point for point in found["points"] if point["published"])
    baseline = {
        "name": "slim_unetr",
        "origin": "weights that come with benchbench",
        "costs": plain["costs"],
        "objective": plain["objective"],
        "volume_latency_s": None,
        "dice_val": 0.84,
        "dice_test": plain["dice_test"],
        "train_s": 1200.0,
    }
    rows = [
        compared("published weights", BEST, 0.03),
        compared("scratch", BEST, -0.001, "not told apart"),
        compared("published", BEST, 0.01),
        compared("scratch", CHEAP, -0.02, "worse"),
    ]
    verdicts = {"comparisons": rows, "verdicts": [], "not_run": [], "baseline": baseline}
    return found | {"points": points} | verdicts | changes


def lead(found: Mapping[str, Any]) -> str:
    return render_search(found).partition('class="lead">')[2].partition("</p>")[0]


def points_with(found: Mapping[str, Any], **dice_val: float) -> list[dict[str, Any]]:
    """The points, those named all of them on the front, with other Dice on val."""
    points: list[dict[str, Any]] = copy.deepcopy(found["points"])
    for point in points:
        key = point["name"].rpartition("-")[2]
        point["front"] = f"p{key}" in dice_val
        point["dice_val"]["mean"] = dice_val.get(f"p{key}", point["dice_val"]["mean"])
    return points


def test_the_lead_names_the_cheapest_of_those_that_are_about_the_best_on_val() -> None:
    found = searched()
    assert lead(found | {"points": points_with(found, p060d9d=0.836, pe1497c=0.842)}).startswith(f"Take {CHEAP}: Dice ")
    text = lead(found | {"points": points_with(found, p060d9d=0.824, pe1497c=0.842)})
    assert text.startswith(f"Take {BEST}: Dice 0.832 (0.818 to 0.844) on 44 cases that the search has never seen")
    assert "It is the cheapest of the front within 0.01 of the best Dice on val." in text


def test_the_lead_says_where_the_published_network_is_to_be_taken() -> None:
    found = searched()
    text = lead(found | {"points": points_with(found, pe7d96b=0.95, p060d9d=0.8)})
    assert text.startswith(f"Take {PLAIN}, the published network: Dice ")


def test_the_lead_says_where_another_one_is_better_on_the_cases_kept_apart() -> None:
    found = searched()
    points = points_with(found, p060d9d=0.80, pe1497c=0.84)
    next(point for point in points if point["name"] == CHEAP)["dice_test"]["mean"] = 0.99
    text = lead(found | {"points": points})
    assert text.startswith(f"Take {BEST}")
    assert f"On those cases {CHEAP} reaches more, 0.990, but they were not used to choose." in text


def test_networks_that_find_nothing_are_not_to_be_taken() -> None:
    found = searched()
    points = points_with(found, p060d9d=0.05, pe1497c=0.04)
    for point in points:
        point["dice_test"]["mean"] = 0.03
    page = render_search(found | {"points": points})
    assert "There is nothing to take: no network of the front segments anything (Dice on val at most 0.050)." in page
    assert "on the front, of no use" in page
    assert lead(found | {"points": points_with(found)}).startswith("There is nothing to take")


def test_what_the_network_saves_comes_before_the_finalists_with_each_baseline_apart() -> None:
    page = render_search(of_today())
    own, trained_as_long = search_answer.savings(of_today(), of_today()["points"][1:3])
    assert own.figures[:3] == (("+0.030", "Dice"), ("7.56 x", "fewer parameters"), ("2.45 x", "fewer MACs"))
    assert own.title == "More accurate than the published network (slim_unetr)"
    assert "Dice 0.830 against 0.800, +0.025 to +0.035 over the same 44 cases." in own.text
    assert trained_as_long.title == "More accurate than the published network (slim_unetr, trained for the whole time)"
    assert (
        page.index(own.title) < page.index(trained_as_long.title) < page.index("Finalists") < page.index('id="details"')
    )


def test_a_network_that_is_slower_or_larger_is_called_so() -> None:
    found = of_today()
    row = compared("published weights", BEST, 0.03, own_latency_s=0.02, latency_s=0.01, latency_of="a patient takes")
    costs = found["baseline"]["costs"] | {"params": 1000.0}
    (saving,) = search_answer.savings(
        found | {"comparisons": [row], "baseline": found["baseline"] | {"costs": costs}}, found["points"][1:3]
    )
    assert ("235 x", "more parameters") in saving.figures
    assert saving.figures[-1] == ("2 x", "as slow")
    assert "A patient takes 20 ms against 10 ms." in saving.text


def test_each_control_has_its_verdict_and_one_that_was_not_run_says_so() -> None:
    found = of_today(not_run=["the best of a search with random proposals"])
    page = render_search(found)
    heads, lines = search_answer.controls(found, found["points"][1:3])
    assert heads == ["The same from scratch", "Published network, trained for the whole time"]
    cells = dict(lines)
    assert cells[CHEAP] == [("worse", "-0.020 (-0.025 to -0.015)"), ("not run", "")]
    assert cells[BEST][0] == ("not told apart", "-0.001 (-0.006 to +0.004)")
    assert "Not run: the best of a search with random proposals. This runs them: <code>bench search --resume" in page


def test_without_weights_of_the_published_network_only_costs_are_compared() -> None:
    known = of_today()["baseline"] | {"dice_test": None}
    remark = "there are no weights of the published network for this data"
    page = render_search(of_today(baseline=known, comparisons=[], verdicts=[remark]))
    assert f"{remark}." in page
    assert "of which no Dice is known" in page


def test_a_limit_that_does_not_bind_has_a_line_and_no_column() -> None:
    page = render_search(searched())
    assert "2GB does not bind: the finalists take at most 24% of it, the published network 24%." in page
    assert "Of the budget" not in page


@pytest.mark.parametrize("why", ["a proposal was refused", "a finalist is beyond it", "nobody knows"])
def test_a_limit_that_binds_has_a_column(why: str) -> None:
    found = searched()
    if why == "a proposal was refused":
        found["trials"][0]["refused"] = {"memory_bytes": 3e9}
    elif why == "a finalist is beyond it":
        found["points"][0] |= {"use": {"2GB": 1.2}, "keeps": False}
    else:
        found["points"][0]["keeps"] = None
    page = render_search(found)
    assert "Of the budget" in page
    assert "does not bind: the finalists" not in page


def test_the_picture_of_the_front_holds_the_baseline_and_the_controls_whose_cost_is_known() -> None:
    drawing = figures_search.front(of_today())
    assert drawing is not None
    for words in ("published network, test", "the same from scratch, test", "published, as long, test"):
        assert words in drawing.svg
    assert "nnU-Net" not in drawing.svg
    timed = compared("scaled", BEST, 0.0, own_latency_s=0.02, latency_s=0.03, latency_of="one patch takes")
    rows = of_today()["comparisons"]
    scaled = figures_search.front(of_today(comparisons=[*rows, timed]))
    assert scaled is not None
    assert "nnU-Net, as fast, test" in scaled.svg
    by_macs = {"name": "macs", "objective": "macs", "unit": "MAC", "title": "MACs of one patch"}
    unknown = figures_search.front(of_today(comparisons=[*rows, timed], metric=by_macs))
    assert unknown is not None
    assert "nnU-Net" not in unknown.svg


def test_a_front_of_the_phantom_is_joined_only_after_equal_trainings() -> None:
    def caption(semi_synthetic: bool, seconds: float) -> str:
        found = of_today()
        found["data"]["semi_synthetic"] = semi_synthetic
        found["points"][1]["train_s"] = seconds
        drawing = figures_search.front(found)
        assert drawing is not None
        return drawing.caption

    assert "the dashed line the front" in caption(True, found_seconds())
    assert "No line joins the front: Dice of the phantom after unequal trainings" in caption(True, 900.0)
    assert "No line joins" not in caption(False, 900.0)


def found_seconds() -> float:
    return float(of_today()["points"][2]["train_s"])


def test_details_are_folded_and_all_of_them_are_there() -> None:
    page = render_search(searched())
    folded = page[page.index('id="details"') :]
    for text in ("What differs from the published network", "How the search went", "widths 24-24-24-24", "Conditions"):
        assert text in folded
    assert "<details open" not in page
