"""A paper's table: one unit a column, the best in bold, and a note for whatever a number alone would hide."""

import csv
import dataclasses
import io
import re
import shutil
import subprocess

import pytest

from benchbench import report
from benchbench.core.errors import UsageError
from benchbench.report import reasons
from tests import report_examples as examples

TITLES = {"slim_unetr": "Slim UNETR", "unetr": "UNETR", "nnunet": "nnU-Net", "swin_unetr": "Swin UNETR"}
COLUMNS = ("model", "params", "macs", "flops", "latency", "memory", "dice")
EVIL = '=HYPERLINK("http://example.org","x")'


def zoo():
    found = [examples.finished(name) for name in ("slim_unetr", "unetr", "nnunet")]
    slow = examples.finished("swin_unetr", status="unstable", error="the median is known to ±8.1% only: close programs")
    return [*found, slow]


def text(records, fmt, columns=COLUMNS, **options):
    return report.paper_text(records, fmt, report.PaperOptions(columns=columns, titles=TITLES, **options))


def lines_of(latex):
    """The cells of each network by its label."""
    body = latex.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    rows = [line.strip().removesuffix(r"\\").split(" & ") for line in body.strip().splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_titles_stand_for_names_and_numbers_are_in_the_unit_of_their_head():
    latex = text(zoo(), "latex", uncertainty="none")
    assert "{Params (M)} & {MACs (G)} & {FLOPs (G)} & {Latency (s)}" in latex
    row = lines_of(latex)["UNETR"]
    assert row[:4] == ["102", "184", "367", "4.61"]
    assert "slim_unetr" not in latex.replace(r"\_", "_")


def test_flops_are_twice_the_macs_and_the_table_says_so():
    row = lines_of(text(zoo(), "latex", uncertainty="none"))["UNETR"]
    assert float(row[2]) == pytest.approx(2 * float(row[1]), rel=0.01)
    assert "FLOPs are twice the MACs." in text(zoo(), "latex")
    assert "FLOPs are" not in text(zoo(), "latex", ("model", "macs"))


def test_the_best_of_a_column_is_bold_and_of_a_dice_the_highest():
    rows = lines_of(text(zoo(), "latex", uncertainty="none"))
    assert [cell.startswith(r"\bfseries ") for cell in rows["Slim UNETR"][:6]] == [True] * 5 + [False]
    assert rows["nnU-Net"][5].startswith(r"\bfseries ")
    assert "**0.839**" in text(zoo(), "markdown", uncertainty="none")


def test_times_that_the_noise_does_not_tell_from_the_best_are_bold_too():
    near = examples.finished("slim_unetr", model=examples.spec("near"))
    near = dataclasses.replace(
        near,
        measurements=tuple(
            dataclasses.replace(m, value=m.value * 1.015) if m.metric == "latency_s" else m for m in near.measurements
        ),
    )
    rows = lines_of(text([*zoo(), near], "latex", ("model", "latency"), uncertainty="none"))
    assert rows["near"][0].startswith(r"\bfseries ")
    assert not rows["UNETR"][0].startswith(r"\bfseries ")


def test_neither_one_row_nor_equal_ones_have_a_best():
    one = text([examples.finished("unetr")], "latex")
    assert "bfseries" not in one
    assert "Bold" not in one


def test_a_network_of_no_use_is_the_best_of_nothing():
    poor = examples.finished("slim_unetr")
    poor = dataclasses.replace(
        poor,
        measurements=tuple(
            dataclasses.replace(m, value=0.02, values=()) if m.metric == "dice" else m for m in poor.measurements
        ),
    )
    latex = text([poor, *zoo()[1:]], "latex")
    (label,) = [label for label in lines_of(latex) if label.startswith("Slim UNETR")]
    assert not any("bfseries" in cell for cell in lines_of(latex)[label])
    assert label.endswith(r"\textsuperscript{a}")
    assert "of no use" in latex


@pytest.mark.parametrize(
    ("uncertainty", "shown"), [("interval", "[4.54, 4.70]"), ("pm", r"$\pm$ 0.09"), ("none", None)]
)
def test_what_stands_beside_a_number_is_chosen(uncertainty, shown):
    latex = text(zoo(), "latex", uncertainty=uncertainty)
    row = lines_of(latex)["UNETR"]
    assert (shown in row) if shown else not any("[" in cell or "pm" in cell for cell in row)
    assert ("95 \\% interval" in latex) == bool(shown)


def test_an_unstable_row_has_a_footnote_without_the_advice():
    latex = text(zoo(), "latex")
    assert r"Swin UNETR\textsuperscript{a}" in latex
    assert r"\textsuperscript{a}~Unstable: the median is known to $\pm$8.1\% only." in latex
    assert "close programs" not in latex


def test_a_number_of_another_origin_than_its_column_has_a_footnote_and_is_not_the_best():
    forecast = examples.finished("unetr")
    kept = tuple(m for m in forecast.measurements if m.metric != "peak_memory_bytes")
    small = tuple(dataclasses.replace(m, value=1_000_000) if m.metric == "tensor_memory_bytes" else m for m in kept)
    latex = text([*zoo(), dataclasses.replace(forecast, model=examples.spec("odd"), measurements=small)], "latex")
    row = lines_of(latex)["odd"]
    at = row.index(r"\geq 1")
    assert row[at + 1].startswith(r"\textsuperscript{")
    assert "Not measured, but counted from the graph, at least this" in latex


def test_each_column_says_its_origin_and_a_failed_row_its_reason():
    found = [*zoo(), examples.failed("x_1", "oom", "no room & no time")]
    for fmt in ("latex", "markdown"):
        shown = text(found, fmt)
        assert "exact, counted from the graph" in shown
        assert "latency, peak memory, Dice: measured" in shown
        assert "Oom: no room" in shown
    assert lines_of(text(found, "latex"))[r"x\_1\textsuperscript{b}"].count("{--}") == 6


def test_rows_are_sorted_by_the_column_that_is_named_the_best_first():
    def order(**options):
        return list(lines_of(text(zoo()[:3], "latex", uncertainty="none", **options)))

    assert order() == ["Slim UNETR", "UNETR", "nnU-Net"]
    assert order(sort="dice") == ["nnU-Net", "Slim UNETR", "UNETR"]
    assert order(sort="model") == ["nnU-Net", "Slim UNETR", "UNETR"]
    assert order(sort="macs") == ["Slim UNETR", "UNETR", "nnU-Net"]


def test_a_row_without_a_value_is_sorted_last():
    latex = text(zoo(), "latex", sort="dice")
    assert list(lines_of(latex))[-1].startswith("Swin UNETR")


def test_the_conditions_are_the_caption_or_stand_below_ones_own():
    assert r"\caption{Networks on Example CPU 9000, 2 threads" in text(zoo(), "latex")
    own = text(zoo(), "latex", caption="Costs & Dice")
    assert r"\caption{Costs \& Dice}" in own
    assert "\nExample CPU 9000, 2 threads" in own


def test_a_metric_of_the_records_is_a_column_too():
    assert "Dice WT" in text(zoo(), "latex", ("model", "dice_wt"))


def test_an_unknown_column_is_one_line_that_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'params'"):
        text(zoo(), "latex", ("model", "parms"))
    with pytest.raises(UsageError, match="--sort dise"):
        text(zoo(), "latex", sort="dise")
    with pytest.raises(UsageError, match="names dice twice"):
        text(zoo(), "latex", ("dice", "dice"))


def test_csv_has_full_values_with_their_origin_and_no_formulas():
    evil = examples.finished("slim_unetr", model=examples.spec(EVIL))
    rows = list(csv.DictReader(io.StringIO(text([*zoo(), evil], "csv", sort="params"))))
    assert {row["network"] for row in rows} >= {"UNETR", f"'{EVIL}"}
    (unetr,) = [row for row in rows if row["model"] == "unetr"]
    assert (float(unetr["latency"]), unetr["latency_unit"], unetr["latency_origin"]) == (4.61, "s", "measured")
    assert float(unetr["flops"]) == 2 * float(unetr["macs"])
    assert float(unetr["latency_low"]) < 4.61 < float(unetr["latency_high"])


def test_the_usual_columns_are_those_with_values():
    latex = text(zoo(), "latex", ())
    assert "Latency" in latex
    assert "HD95" not in latex
    assert "Precision" not in latex


@pytest.mark.parametrize("uncertainty", ["interval", "pm", "none"])
def test_every_row_of_latex_has_as_many_cells_as_there_are_columns(uncertainty):
    latex = text([*zoo(), examples.failed("x_1")], "latex", uncertainty=uncertainty)
    (spec,) = re.findall(r"\\begin\{tabular\}\{(.*)\}", latex)
    n = len(re.findall(r"S\[|(?<![a-z])l(?![a-z])", re.sub(r"@\{\\hspace\{0.5em\}\}", " ", spec)))
    assert {len(cells) + 1 for cells in lines_of(latex).values()} == {n}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs and siunitx")
@pytest.mark.parametrize("uncertainty", ["interval", "pm", "none"])
def test_latex_can_be_compiled_as_it_is_pasted(tmp_path, uncertainty):
    has_siunitx = subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True, check=False).stdout
    if not has_siunitx:
        pytest.skip("needs siunitx")
    odd = examples.finished("slim_unetr", model=examples.spec("a|b_c & 5% {d} ^~\\ <é>"))
    body = text([*zoo(), odd, examples.failed("x_1")], "latex", uncertainty=uncertainty, caption="50 % ± 1 × 2 — _x_")
    page = r"\documentclass{article}\usepackage{booktabs,siunitx}\begin{document}" + f"\n{body}\n" + r"\end{document}"
    (tmp_path / "paper.tex").write_text(page)
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:]


def test_texts_that_differ_in_numbers_alone_are_one_with_their_ranges():
    assert (
        reasons.folded(["known to ±3.4% (limit 3%)", "known to ±8.2% (limit 3%)"]) == "known to ±3.4 to 8.2% (limit 3%)"
    )
    with pytest.raises(ValueError, match="more than numbers"):
        reasons.folded(["a 1", "b 1"])
