"""The page of the reference paper's tables: published beside true, and why the two differ."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchbench.core import records as rec
from benchbench.core.audit_result import read_audit
from benchbench.core.errors import StoreError
from benchbench.core.results import read_records
from benchbench.report import conditions, export, folder_reader, render, write_report
from benchbench.report.audit import figures as audit_figures
from benchbench.report.audit import section as audit_section
from benchbench.report.audit import tables as audit_tables
from benchbench.report.audit.tables import AuditRow
from benchbench.report.slim_unetr_paper import published, section
from benchbench.report.slim_unetr_paper import tables as slim_unetr_paper_tables
from benchbench.report.tables import Table, TableRow
from tests import report_examples as examples
from tests.report.test_page import ATTACK, Page

VESSEL = dataclasses.replace(examples.AUDIT_WORKLOAD, spatial=(96, 96, 96))
COUNTED = tuple(m for m in examples.counted("slim_unetr") if m.origin == "analytic")


def page_of(*folders: Path) -> str:
    return write_report(folders).read_text(encoding="utf-8")


def part_of(folder: Path, *names: str) -> list[AuditRow]:
    """The audits of these networks, read back."""
    (part,) = parts_of(folder, [examples.audited(folder, name) for name in names or examples.AUDITS])
    return part


def parts_of(folder: Path, records: list[rec.Record]) -> list[list[AuditRow]]:
    """Audits with the names and figures of the paper, apart by input."""
    return section.with_paper(audit_tables.gather(records, folder_reader([folder])))


def line(table: Table, card: str) -> TableRow:
    return next(one for one in table.rows if one.card == card)


# The paper's tables, as shipped


def test_the_shipped_tables_hold_the_papers_fifteen_rows_and_each_names_a_network():
    tables = [published.table(number) for number in (1, 2, 3)]
    assert [len(rows) for rows in tables] == [15, 15, 15]
    assert len({row.card for rows in tables for row in rows}) == 15
    assert set(examples.AUDITS) == {row.card for row in tables[2]}
    assert published.figure(3, "slim_unetr", "brain_gflops") == "12.42"
    assert published.figure(1, "slim_unetr", "dice_avg") == "92.44"
    assert published.figure(2, "swin_unetr", "task01_wt") == "90.23"
    transbts = published.find(3, "transbts")
    assert transbts is not None
    assert "vessel_gflops" not in transbts.values  # the paper has no figure there, and none is made up
    with pytest.raises(KeyError):
        published.figure(3, "nnunet", "brain_gflops")


def test_the_throughputs_are_rates_rounded_to_three_decimals_times_sixty():
    found = published.throughput_steps()
    assert (found.n, found.exact) == (29, 27)
    assert found.others == (("E1D3 UNet", "25.91"), ("nn-UNet", "85.19"))
    assert found.by_chance == pytest.approx(29 / 6)
    figures = [v for row in published.table(3) for k, v in row.values.items() if k.endswith("per_min")]
    rates = [float(f) for f in figures if f not in ("25.91", "85.19")]
    assert all(round(round(rate / 60, 3) * 60, 2) == rate for rate in rates)


# Published, true and counted


def test_the_ratios_are_computed_from_the_records(tmp_path):
    facts = section.facts(part_of(tmp_path))
    assert [[cell.text for _, cell in fact.figures] for fact in facts] == [
        ["12.42", "2.516 GMAC"],
        ["63.9 x", "307 x"],
        ["13 of 15"],
        ["27 of 29"],
    ]
    assert [[cell.origin for _, cell in fact.figures] for fact in facts[:2]] == [["published", "analytic"]] * 2
    assert facts[0].title == "Slim UNETR: compute published 4.94 x too high"
    assert "The counter thop says 12.39, 9.874 GMAC more than the graph holds." in facts[0].text
    assert "The largest part is transposed convolutions, +9.87: counted over the output volume" in facts[0].text
    assert "understates its own network's advantage by 4.80 x" in facts[1].text
    assert facts[2].text.startswith("11 too high, 2 too low; 2 agree. Of the parameter counts, 2 of 15")
    changed = [examples.number("macs", 8e9, "analytic"), examples.number("macs", 12.42e9, "published")]
    record = examples.audited(tmp_path, "slim_unetr", measurements=tuple(changed))
    others = [examples.audited(tmp_path, "swin_unetr"), record]
    (part,) = parts_of(tmp_path, others)
    assert section.facts(part)[1].figures[1][1].text == "96.5 x"


def test_compute_stands_published_true_and_counted_each_with_its_origin(tmp_path):
    table = audit_tables.table(part_of(tmp_path), "macs")
    slim = line(table, "slim_unetr")
    shown = {c.key: (slim.cell(c.key).text, slim.cell(c.key).origin) for c in table.columns}
    assert shown["published"] == ("12.42", "published")
    assert shown["true"] == ("2.516", "analytic")
    assert shown["factor"] == ("4.94 x", None)
    assert shown["by_thop"] == ("12.39", "counter")
    assert shown["by_thop_fixed"] == ("2.516", "counter")
    assert shown["by_torch_pruning"] == ("-", None)
    assert slim.cell("by_torch_pruning").note == "the forward cannot run without values"
    assert slim.cell("why").text.startswith("The count of thop; transposed convolutions, counted over")
    assert {c.group for c in table.columns} == {"GMAC (2x = GFLOP)", "GMAC (2x = GFLOP) by", ""}
    factors = [one.cell("factor").value for one in table.rows]
    assert factors == sorted(factors, reverse=True)
    assert line(table, "unet3d").cell("published").text == "2382.1"  # with the digits of the paper


def test_parameters_say_which_are_bare_and_which_figure_is_too_low(tmp_path):
    table = audit_tables.table(part_of(tmp_path), "params")
    first = table.rows[0]
    assert first.card == "unetr_pp"
    assert (first.cell("factor").text, first.cell("factor").detail) == ("0.472 x", "too low")
    assert first.cell("why").text == "The count of thop: 22,527,195 bare parameters left out"
    assert line(table, "slim_unetr").cell("factor").detail == "agrees"


def test_networks_that_the_paper_does_not_have_stand_beside_it_and_are_not_counted_as_its(tmp_path):
    mine = examples.audited(tmp_path, "unetr", model=examples.spec("segformer3d"))
    records = [examples.audited(tmp_path, name) for name in ("slim_unetr", "segresnet")]
    (part,) = parts_of(tmp_path, [*records, mine])
    assert audit_tables.table(part, "macs").title == "Table III and other networks: compute"
    assert audit_tables.table(part[:2], "macs").title == "Table III: compute"
    assert [cell.text for fact in section.facts(part) for _, cell in fact.figures][2] == "1 of 2"
    drawn = audit_figures.published_and_true(part, "macs", prefix="m")
    assert drawn is not None
    assert drawn.caption.endswith("Published elsewhere: segformer3d.")


def test_the_staircase_goes_from_the_truth_to_what_the_counter_says(tmp_path):
    (slim,) = part_of(tmp_path, "slim_unetr")
    steps = audit_figures.steps_of(slim, "thop")
    assert [s.label for s in steps] == [
        "true",
        "transposed convolutions",
        "normalisations",
        "matrix products",
        "thop says",
        "published",
    ]
    assert [s.kind for s in steps] == ["true", "more", "more", "less", "counter", "published"]
    assert all(a.end == b.start for a, b in itertools.pairwise(steps[:4]))
    assert steps[3].end == steps[4].end
    assert sum(s.end - s.start for s in steps[1:4]) == pytest.approx(9.87e9, rel=1e-3)


def test_what_the_differences_leave_open_is_a_step_of_its_own_and_many_are_one(tmp_path):
    text = examples.audit_text("slim_unetr")
    text["differences"] = [examples.difference(f"kind {i}", "op", 10**9 * (i + 1), 0, 1, "") for i in range(9)]
    record = examples.audited(tmp_path, "slim_unetr", text)
    ((one,),) = parts_of(tmp_path, [record])
    labels = [s.label for s in audit_figures.steps_of(one, "thop")]
    assert labels == [
        "true",
        *(f"kind {i}" for i in (8, 7, 6, 5, 4)),
        "all others",
        "not explained",
        "thop says",
        "published",
    ]


def test_one_kind_under_two_operators_is_one_share():
    text = examples.audit_text("slim_unetr")
    text["differences"] = [
        examples.difference("attention", "bmm", 5, 0, 1, "small"),
        examples.difference("attention", "matmul", 0, 9, 1, "large"),
        examples.difference("linear layers", "linear", 3, 3, 1, "nothing"),
    ]
    shares = read_audit(json.dumps(text).encode()).shares("thop")
    assert [(s.kind, s.excess, s.why) for s in shares] == [("attention", -4, "large")]


def test_without_the_papers_own_network_the_one_furthest_off_is_explained(tmp_path):
    part = part_of(tmp_path, "vnet", "unetr_pp", "segresnet")
    featured = audit_tables.featured(part)
    assert featured is not None
    assert featured.card == "unetr_pp"
    drawing = audit_figures.staircase(part, prefix="w")
    assert drawing is not None
    assert drawing.title == "UNETR++: why 139.44 is not 72.75"


def test_a_figure_that_no_counter_reproduces_is_explained_by_the_one_furthest_off(tmp_path):
    (transvw,) = part_of(tmp_path, "transvw")
    assert transvw.result is not None
    assert transvw.result.published.macs_counter is None
    assert audit_tables.blamed(transvw) == "thop"


def test_the_compute_figure_says_in_words_what_it_draws(tmp_path):
    part = part_of(tmp_path, "slim_unetr", "transbts")
    drawn = audit_figures.published_and_true(part, "macs", prefix="m")
    assert drawn is not None
    assert (
        "Slim UNETR published 12.42, true 2.516, 4.94 x; TransBTS published 263.82, true 325.4, 0.811 x." in drawn.svg
    )
    params = audit_figures.published_and_true(part, "params", prefix="n")
    assert params is not None
    assert params.caption.endswith("The other 1 agree within 2 %.")
    assert audit_figures.published_and_true(part[:1], "params", prefix="n") is None


# Beside our own numbers


def runs() -> list[rec.Record]:
    return [examples.finished(name) for name in examples.NETWORKS]


def test_our_throughput_stands_beside_the_published_one_for_the_same_input_only():
    table = slim_unetr_paper_tables.throughput_table(runs())
    ours = next(c for c in table.columns if c.key.startswith("ours"))
    assert ours.title == "Ours: Example CPU 9000, 2 threads, fp32"
    assert ours.group == "Images per minute, brain input 1 x 4 x 128x128x128"
    swin = line(table, "swin_unetr")
    assert (swin.cell("brain_images_per_min").text, swin.cell("brain_images_per_min").detail) == ("20.82", "13.4 x")
    assert (swin.cell(ours.key).text, swin.cell(ours.key).detail) == ("2.206", "159 x")
    assert swin.cell(ours.key).origin == "measured"
    assert line(table, "nnunet").cell("brain_images_per_min").text == "-"  # not in the paper, still a line
    smaller = dataclasses.replace(examples.WORKLOAD, spatial=(64, 64, 64))
    others = [examples.finished("slim_unetr", workload=smaller), examples.predicted("unetr"), examples.failed("unetr")]
    table = slim_unetr_paper_tables.throughput_table(others)
    assert [c.key for c in table.columns] == ["brain_images_per_min", "vessel_images_per_min"]
    assert "hold no measured latency" in table.caption


def test_a_dice_of_other_data_has_a_column_that_says_it_is_not_comparable():
    first, second = slim_unetr_paper_tables.dice_tables(runs())
    (ours,) = [c for c in first.columns if c.key.startswith("ours")]
    assert ours.title == "phantom (semi-synthetic), split test (not comparable: other data)"
    slim = line(first, "slim_unetr")
    assert (slim.cell("dice_avg").text, slim.cell("dice_avg").origin) == ("92.44", "published")
    assert (slim.cell(ours.key).text, slim.cell(ours.key).origin) == ("78.47", "measured")
    assert slim.cell("hd95_avg").text == "5.36"
    assert not [c for c in second.columns if c.key.startswith("ours")]
    assert line(second, "slim_unetr").cell("task08_tumour").text == "74.02"
    assert "no Dice of ours" in slim_unetr_paper_tables.dice_tables([])[0].caption


@pytest.mark.parametrize(("data", "number"), [("BraTS2021", 0), ("MSD-Task01_BrainTumour", 1), ("Task08", 1)])
def test_a_dice_of_the_papers_data_stands_in_its_table_with_a_caution(data, number):
    work = dataclasses.replace(examples.WORKLOAD, data=data)
    found = (examples.number("dice", 0.9012, method="mean"), examples.number("hd95_mm", 5.25))
    table = slim_unetr_paper_tables.dice_tables([examples.record("unetr", workload=work, measurements=found)])[number]
    dice, hd95 = (c for c in table.columns if c.key.startswith("ours"))
    assert dice.title == f"{data}, split test (the paper's split and training are not ours: compare with care)"
    assert (dice.group, hd95.group) == ("Dice, %, ours", "HD95, mm, ours")
    assert line(table, "unetr").cell(dice.key).text == "90.12"
    assert line(table, "unetr").cell(hd95.key).text == "5.250"


def test_of_one_networks_dice_the_newest_counts_and_a_pruned_one_is_not_the_papers():
    old = examples.finished("slim_unetr")
    better = tuple(examples.number("dice", 0.9012) if m.metric == "dice" else m for m in old.measurements)
    new = examples.finished("slim_unetr", started_at="2026-11-25T00:00:00Z")
    new = dataclasses.replace(new, measurements=better)
    pruned = examples.finished("unetr", recipe={"kind": "prune"})
    table = slim_unetr_paper_tables.dice_tables([new, old, pruned])[0]
    (ours,) = [c for c in table.columns if c.key.startswith("ours")]
    assert line(table, "slim_unetr").cell(ours.key).text == "90.12"
    assert line(table, "unetr").cell(ours.key).text == "-"


# The page


def test_audits_alone_make_a_page_of_the_papers_tables(tmp_path):
    text = page_of(examples.whole_audit(tmp_path))
    page = Page(text)
    assert "15 networks audited" in page.visible
    assert "15 of 15 audits finished." in page.visible
    titles = ["Table III: compute", "Table III: parameters", "Table III: throughput", "Table I: Dice", "Table II: Dice"]
    assert [page.visible.index(title) for title in titles] == sorted(page.visible.index(title) for title in titles)
    assert "Slim UNETR: why 12.42 is not 2.516" in page.visible
    assert "bench audit --models slim_unetr,swin_unetr," in page.visible
    assert "Latency" not in {b.strip() for b in page.content["button"]}  # no table of a run
    assert "Claims of the paper" not in page.visible
    assert text.count('class="figure"') == 3


def test_a_page_of_runs_has_no_such_section_and_keeps_its_claims(tmp_path):
    page = Page(page_of(examples.whole_run(tmp_path)))
    assert "counted again" not in page.visible
    assert "Claims of the paper" in page.visible
    assert "counter" not in {a.get("title", "").partition(":")[0] for a in page.all("span")}


def test_runs_and_audits_together_stand_apart(tmp_path):
    run, audits = examples.whole_run(tmp_path / "run"), examples.whole_audit(tmp_path / "audit")
    page = Page(page_of(run, audits))
    assert "5 networks on Example CPU 9000" in page.visible
    assert "4 of 5 rows finished; unet3d out of memory." in page.visible
    assert "sets of conditions" not in page.visible  # an audit is no second set of conditions
    assert "Claims of the paper" in page.visible
    assert "Ours: Example CPU 9000, 2 threads, fp32" in page.visible
    record = examples.audited(tmp_path, "slim_unetr")
    assert len(conditions.group([record, examples.finished("slim_unetr")])) == 2


def test_every_number_of_the_tables_has_an_origin_and_every_gap_a_reason(tmp_path):
    part = part_of(tmp_path)
    tables = [audit_tables.table(part, "macs"), audit_tables.table(part, "params")]
    tables += [slim_unetr_paper_tables.throughput_table(runs()), *slim_unetr_paper_tables.dice_tables(runs())]
    for table in tables:
        for one, column in itertools.product(table.rows, table.columns):
            cell = one.cell(column.key)
            if column.kind == "prose" or column.key == "factor":
                assert cell.text
            else:
                assert (cell.origin is None) == (cell.value is None) == (cell.text == "-"), (one.label, column.key)
                assert cell.note


def test_two_inputs_stand_apart_and_the_vessel_input_has_the_papers_figures(tmp_path):
    one_channel = examples.spec("slim_unetr", in_channels=1, out_channels=2)
    macs = examples.number("macs", 800_000_000, "analytic")
    vessel = examples.audited(
        tmp_path, "slim_unetr", model=one_channel, workload=VESSEL, measurements=(macs,), artifacts=()
    )
    folder = examples.write(tmp_path, [examples.audited(tmp_path, "slim_unetr"), vessel])
    page = Page(write_report([folder], paper=True).read_text(encoding="utf-8"))
    assert page.visible.count("Table III: compute") == 2
    assert "Input 1 x 1 x 96x96x96" in page.visible
    parts = parts_of(tmp_path, [vessel])
    assert line(audit_tables.table(parts[0], "macs"), "slim_unetr").cell("published").text == "3.81"


def test_the_page_is_accessible_and_its_ids_are_there_once(tmp_path):
    page = Page(page_of(examples.whole_run(tmp_path / "run"), examples.whole_audit(tmp_path / "audit")))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    labels = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert set(labels) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a.get("scope") in ("col", "row", "colgroup") for a in page.all("th"))
    assert all(a.get("aria-label") for a in page.all("svg") if a.get("role") == "img")
    sortable = [a for a in page.all("table") if "data-sortable" in a]
    assert len(sortable) == 6
    assert all(json.loads(a["data-sort"])["model"] for a in page.all("tr") if "data-sort" in a)
    assert page.text.count('class="vh" aria-live="polite"') == len(sortable)


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    text = page_of(examples.whole_audit(tmp_path))
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\((?!#)", text)
    page = Page(text)
    assert not [a for _, a in page.tags if "style" in a]
    drawings = re.findall(r"<svg role=.*?</svg>", text, flags=re.DOTALL)
    assert not any(re.search(r"#[0-9a-fA-F]{6}\b", drawing) for drawing in drawings)


def test_equal_audits_give_equal_bytes(tmp_path):
    first = write_report([examples.whole_audit(tmp_path / "here")]).read_bytes()
    other = examples.whole_audit(tmp_path / "there")
    code = "import sys, pathlib; from benchbench.report import write_report; write_report([pathlib.Path(sys.argv[1])])"
    changed = {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, env=os.environ | changed)
    assert (other / "report.html").read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_twenty_five_networks_with_many_differences_stay_below_one_megabyte(tmp_path):
    text = examples.audit_text("slim_unetr")
    why = "counted over the output volume, which has 8x to 64x the input's voxels, and one more for each output element"
    text["differences"] = [
        examples.difference(f"kind {i % 9}", f"operator_{i}", 10**8 * (i + 2), 10**7, 12, why) for i in range(80)
    ]
    text["params"]["shared_modules"] = [f"encoder.stage{i}.block" for i in range(200)]
    records = []
    for name, i in itertools.product(examples.AUDITS, range(2)):
        model = examples.spec(f"{name}{i or ''}")
        records.append(examples.audited(tmp_path, name, text, model=model))
    path = write_report([examples.write(tmp_path, records[:25])])
    assert path.stat().st_size < 1_000_000
    assert "68 smaller ones" in path.read_text(encoding="utf-8")


# Hostile, little or broken input


def test_names_and_reasons_are_text_and_never_markup(tmp_path):
    text = examples.audit_text("slim_unetr")
    text["verdict"] = text["published"]["macs_why"] = text["counters"][0]["how"] = ATTACK
    text["differences"] = [examples.difference(ATTACK, ATTACK, 9, 0, 1, ATTACK)]
    text["counters"].append(examples.counter(ATTACK, 1, 1, ATTACK, ATTACK))
    text["params"]["shared_modules"] = [ATTACK]
    record = examples.audited(tmp_path, "slim_unetr", text)
    odd = examples.audited(tmp_path, "unetr", text, model=examples.spec(ATTACK), status="failed", error=ATTACK)
    whole = page_of(examples.write(tmp_path, [record, odd]))
    page = Page(whole)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [a for _, a in page.tags if "onerror" in a or "style" in a]
    assert "<script>alert(1)</script>" in page.visible
    latex = export([odd], "latex", folder_reader([tmp_path]))
    assert r"\textbackslash" not in latex
    assert r"$<$script$>$alert(1)" in latex


def test_an_audit_whose_artifact_is_gone_changed_or_missing_keeps_its_counts_and_says_so(tmp_path):
    gone, changed = examples.audited(tmp_path, "unetr"), examples.audited(tmp_path, "vnet")
    (tmp_path / gone.artifacts[0].path).unlink()
    (tmp_path / changed.artifacts[0].path).write_text("{}")
    none = examples.audited(tmp_path, "segresnet", artifacts=())
    page = Page(page_of(examples.write(tmp_path, [gone, changed, none])))
    assert "Note: unetr: artifacts/unetr.json is not beside the records" in page.visible
    assert "vnet: artifacts/vnet.json was changed after the run" in page.visible
    assert "segresnet: the record names no audit, so no counter can be shown" in page.visible
    assert "183.6" in page.visible  # the count is the record's own


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: b"[" * 100_000,
        lambda text: b"[]",
        lambda text: {k: v for k, v in text.items() if k != "published"},
        lambda text: text | {"counters": {"torch": 1}},
        lambda text: text | {"counters": [3]},
        lambda text: text | {"verdict": None},
        lambda text: text | {"params": text["params"] | {"all": -1}},
        lambda text: text | {"params": text["params"] | {"all": 10**40}},
        lambda text: text | {"params": text["params"] | {"shared_modules": [1]}},
        lambda text: text | {"published": text["published"] | {"macs": float("nan")}},
        lambda text: text | {"differences": [text["differences"][0] | {"counted": 1.5}]},
    ],
)
def test_an_audit_that_is_none_becomes_a_note(tmp_path, damage: Any):
    damaged = damage(examples.audit_text("slim_unetr"))
    content = damaged if isinstance(damaged, bytes) else json.dumps(damaged).encode()
    with pytest.raises(StoreError, match="the audit cannot be read") as caught:
        read_audit(content)
    assert "\n" not in str(caught.value)
    kept = examples.artifact(tmp_path, "audit", "x.json", content)
    page = Page(page_of(examples.write(tmp_path, [examples.audited(tmp_path, "slim_unetr", artifacts=(kept,))])))
    assert "the audit cannot be read" in page.visible
    assert "12.42" in page.visible


def test_a_failed_audit_is_a_row_with_its_reason_and_its_published_figures(tmp_path):
    failed = examples.record("unetr_pp", workload=examples.AUDIT_WORKLOAD, status="unsupported", error="needs a GPU")
    page = Page(page_of(examples.write(tmp_path, [examples.audited(tmp_path, "slim_unetr"), failed])))
    assert "1 of 2 audits finished; unetr_pp unsupported." in page.visible
    assert page.visible.count("unsupported: needs a GPU") >= 2
    assert len([a for a in page.all("tr") if a.get("class") == "failed"]) == 2  # of compute and of parameters
    ((one,),) = parts_of(tmp_path, [failed])
    table = audit_tables.table([one], "macs")
    assert (table.rows[0].cell("published").text, table.rows[0].cell("true").text) == ("139.44", "-")
    assert one.note == ""  # the failure says it all


@pytest.mark.parametrize(
    "records",
    [
        [examples.record("slim_unetr", workload=examples.AUDIT_WORKLOAD)],
        [examples.record("mine", workload=examples.AUDIT_WORKLOAD, measurements=COUNTED)],
        [examples.record("mine", workload=examples.AUDIT_WORKLOAD, status="failed", error="no room")],
        [examples.record("slim_unetr", workload=examples.AUDIT_WORKLOAD, measurements=COUNTED, environment={})],
        [examples.record("x", workload=VESSEL, measurements=(examples.number("macs", float("inf"), "analytic"),))],
    ],
    ids=["nothing", "no published figure", "failed", "no environment", "not a number"],
)
def test_a_page_of_almost_nothing_is_whole(tmp_path, records):
    page = Page(render(records, folder_reader([tmp_path])))
    assert not {"nan", "inf", "None", "undefined"} & set(page.visible.split())
    for attrs in page.all("tr"):
        if "data-sort" in attrs:
            json.loads(attrs["data-sort"], parse_constant=pytest.fail)
    for fmt in ("csv", "json", "markdown", "latex"):
        assert export(records, fmt)


def test_one_network_alone_has_no_ratio_and_no_share(tmp_path):
    part = part_of(tmp_path, "slim_unetr")
    assert [fact.title.partition(":")[0] for fact in section.facts(part)] == [
        "Slim UNETR",
        "published throughputs are whole multiples of 0.06 images per minute",
    ]
    page = Page(page_of(examples.write(tmp_path, [part[0].record])))
    assert "1 network audited" in page.visible


def test_an_audit_that_disagrees_with_its_record_says_so(tmp_path):
    record = examples.audited(tmp_path, "slim_unetr", examples.audit_text("unetr"))
    ((one,),) = parts_of(tmp_path, [record])
    assert one.note == "the audit counts 183.6 GMAC by PyTorch, the record 2.516"


def test_two_audits_of_one_network_can_be_told_apart(tmp_path):
    first = examples.audited(tmp_path, "slim_unetr")
    second = dataclasses.replace(first, environment=examples.ENVIRONMENT | {"torch": "2.14.0"})
    (part,) = parts_of(tmp_path, [first, second])
    assert len({one.label for one in part}) == 2
    assert all(one.label.startswith("Slim UNETR #") for one in part)


# Networks that are not the paper's


def foreign(folder: Path) -> Path:
    """A run and an audit of a network that no paper of the zoo has."""
    mine = examples.spec("mynets:MyNet")
    text = examples.audit_text("slim_unetr")
    text["published"] = dict.fromkeys(text["published"]) | {"macs_why": "", "params_why": ""}
    audit = examples.audited(folder, "slim_unetr", text, model=mine, measurements=COUNTED)
    run = examples.finished("slim_unetr", model=mine)
    own = tuple(m for m in run.measurements if m.origin != "published")
    return examples.write(folder, [dataclasses.replace(run, measurements=own), audit])


def test_a_page_of_one_foreign_network_names_no_paper(tmp_path):
    text = page_of(foreign(tmp_path))
    for name in ("Slim UNETR", "Swin UNETR", "slim_unetr", "IEEE", "Table III", "paper’s"):
        assert name not in text
    assert "mynets:MyNet" in text
    assert "Counters side by side" in text
    assert "Published, true and counted: compute" in text
    table = export(list(read_records(tmp_path)), "csv", folder_reader([tmp_path]))
    assert "paper_name" not in table


def test_the_paper_is_shown_where_it_is_asked_for(tmp_path):
    page = Page(write_report([foreign(tmp_path)], paper=True).read_text(encoding="utf-8"))
    assert "Claims of the paper" in page.visible
    assert "Table III and other networks: compute" not in page.visible
    assert "Table III: throughput" in page.visible


@pytest.mark.parametrize(
    ("names", "whether"),
    [
        (["slim_unetr"], False),
        (["swin_unetr", "unetr"], False),
        (["slim_unetr", "slim_unetr_fixed"], False),
        (["slim_unetr", "unetr"], True),
    ],
)
def test_the_paper_belongs_to_its_network_and_one_that_it_compares_it_with(names, whether):
    assert section.applies([examples.record(name) for name in names]) is whether


def test_published_sizes_stand_beside_ours_without_the_papers_claims(tmp_path):
    page = Page(render([examples.finished("slim_unetr")], folder_reader([tmp_path])))
    assert "Claims of the paper" not in page.visible
    assert "Published sizes beside our counts" in page.visible


# Export


def test_csv_and_json_hold_full_values_each_with_its_origin(tmp_path):
    records = [part.record for part in part_of(tmp_path)]
    rows = list(csv.DictReader(io.StringIO(export(records, "csv", folder_reader([tmp_path])))))
    assert len(rows) == 15
    slim = rows[0]
    assert (slim["macs"], slim["macs_origin"]) == ("2516379648", "analytic")
    assert (slim["published_macs"], slim["published_macs_origin"]) == ("12420000000.0", "published")
    assert (slim["thop_macs"], slim["thop_origin"], slim["thop_version"]) == ("12389898473", "counter", "0.1.1")
    assert (slim["torch_pruning_macs"], slim["torch_pruning_origin"]) == ("", "")
    assert slim["torch_pruning_reason"] == "the forward cannot run without values"
    assert float(slim["published_per_true_macs"]) == pytest.approx(4.9357, abs=1e-4)
    data = json.loads(export(records, "json", folder_reader([tmp_path])))
    assert {c["counter"]: c["macs"] for c in data[0]["audit"]["counters"]}["thop"] == 12389898473
    assert data[0]["values"]["macs"]["origin"] == "analytic"
    unread = json.loads(export(records[:1], "json"))[0]
    assert (unread["audit"], unread["audit_note"]) == (None, "artifacts/slim_unetr.json was not read")


def test_markdown_and_latex_are_the_tables_of_the_page_for_an_appendix(tmp_path):
    records = [part.record for part in part_of(tmp_path)]
    markdown, latex = (export(records, fmt, folder_reader([tmp_path])) for fmt in ("markdown", "latex"))
    assert "| Network | Published, GMAC (2x = GFLOP) | True, GMAC (2x = GFLOP) | Published / true |" in markdown
    assert "| GMAC (2x = GFLOP) by thop |" in markdown
    assert "| Slim UNETR | 12.42 [L] | 2.516 [A] | 4.94 x | 12.39 [C] |" in markdown
    assert "[C] counter" in markdown
    assert r"Slim UNETR & 12.42 [L] & 2.516 [A] & 4.94 x & 12.39 [C]" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    widths = {len(row.split(" & ")) for row in latex.splitlines() if row.startswith(("Slim UNETR &", "Network &"))}
    assert widths == {9}  # a heading for each cell
    for block in latex.split(r"\end{tabular}")[:2]:
        spans = sum(int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", block))
        heads = next(row for row in block.splitlines() if row.startswith("Network"))
        assert spans == heads.count("&")


def test_runs_and_audits_together_export_as_tables_apart_and_as_one_list(tmp_path):
    records = [*runs(), examples.audited(tmp_path, "slim_unetr")]
    read = folder_reader([tmp_path])
    markdown = export(records, "markdown", read)
    assert "| slim\\_unetr | 1.78 M [A] | 2.52 GMAC [A] | 171 ms [M] |" in markdown
    assert "Table III: compute, input 1 x 4 x 128x128x128" in markdown
    assert len(list(csv.DictReader(io.StringIO(export(records, "csv", read))))) == 5
    assert [("audit" in row) for row in json.loads(export(records, "json", read))] == [False] * 4 + [True]


def test_the_command_to_repeat_an_audit_is_quoted_for_a_shell():
    odd = examples.record("x", model=examples.spec("my nets/x.toml"), workload=examples.AUDIT_WORKLOAD)
    assert audit_section.command([odd]) == "bench audit --models 'my nets/x.toml' --input 1 4 128 128 128 --out FOLDER"
