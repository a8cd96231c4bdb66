"""With --anyway, cells pair by network and work as far as that is unambiguous, and what differs is listed."""

import dataclasses
import html

import pytest

from benchbench.cli.commands import compare as compare_command
from benchbench.core.errors import UsageError
from benchbench.report.compare import page as compare_page
from benchbench.report.compare.compare import compare
from tests import compare_examples as examples

STEADY = examples.latency(1.0, 1.001, 0.999, 1.002, 0.998)
PARENT = {"parent": "slim_unetr", "root": "slim_unetr", "prune": 0.5}


def cell(name="slim_unetr", threads=2, checkpoint=None, recipe=None):
    record = examples.cell(STEADY, name=name, workload={"threads": threads}, recipe=recipe)
    return dataclasses.replace(record, model=dataclasses.replace(record.model, checkpoint=checkpoint, arch="m:Net"))


CASES = [
    (cell(), cell(threads=1), "slim_unetr: threads 2 -> 1"),
    (cell(checkpoint="a" * 64), cell(checkpoint="b" * 64), "slim_unetr: checkpoint aaaaaaaa -> bbbbbbbb"),
    (
        cell(),
        cell("slim_unetr-l1-50", recipe=PARENT),
        "slim_unetr: network slim_unetr -> slim_unetr-l1-50, recipe none",
    ),
]


@pytest.mark.parametrize(("a", "b", "says"), CASES)
def test_cells_of_one_family_are_paired_anyway_and_what_differs_is_told(a, b, says):
    with pytest.raises(UsageError, match=r"nothing in common .*--anyway pairs them"):
        compare([a], [b])
    found = compare([a], [b], anyway=True)
    assert len(found.rows) == 1
    assert found.only == ((), ())
    assert found.differences[0].startswith(says)
    for form in ("table", "json"):
        assert says in compare_command.text(found, ("a", "b"), form)


@pytest.mark.parametrize(("a", "b", "says"), CASES)
def test_the_page_lists_what_differs(a, b, says):
    page = compare_page.render_comparison(compare([a], [b], anyway=True), ("a", "b"))
    assert html.escape(says) in page


def test_a_cell_with_two_counterparts_is_not_paired():
    with pytest.raises(UsageError, match="nothing in common"):
        compare([cell()], [cell(threads=1), cell(threads=4)], anyway=True)


def test_equal_cells_pair_first():
    found = compare([cell()], [cell(), cell(threads=1)], anyway=True)
    assert found.differences == ()
    assert len(found.only[1]) == 1


def test_other_networks_are_never_paired():
    with pytest.raises(UsageError, match="nothing in common"):
        compare([cell()], [cell("unet")], anyway=True)
