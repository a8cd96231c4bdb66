"""The report reads records and says where every number came from."""

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
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.core.errors import StoreError, UsageError
from benchbench.report import conditions, export, layers, reliability, render, summary_rows, write_report
from benchbench.report.audit.section import published_beside_ours
from benchbench.report.figures import overview as figures_overview
from benchbench.report.figures import style
from benchbench.report.slim_unetr_paper import claims
from tests import report_examples as examples

ATTACK = '<script>alert(1)</script></svg></title>"\'><img src=x onerror=alert(2)> $x$ ` style="fill:red"'


class Page(HTMLParser):
    """What a browser would build of the page, as far as the tests ask."""

    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open = text, [""]
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.content: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        self.content.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def visible(self) -> str:
        said = [t for tag, parts in self.content.items() if tag not in ("style", "script") for t in parts]
        return " ".join(" ".join(said).split())


def nothing(artifact: rec.Artifact) -> bytes:
    raise StoreError(f"{artifact.path} is not beside the records, so it is not shown")


def text_of(*records: rec.Record, paper: bool = False) -> str:
    return render(records, nothing, paper=paper)


def run_and_prediction(tmp_path: Path) -> list[Path]:
    return [examples.whole_run(tmp_path / "a"), examples.prediction(tmp_path / "b")]


# One file, always the same bytes


def test_the_page_refers_to_nothing_outside_itself_and_stays_below_one_megabyte(tmp_path):
    path = write_report(run_and_prediction(tmp_path))
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "a" / "report.html"
    assert len(text.encode()) < 1_000_000
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\((?!#)", text)
    for _, attrs in Page(text).tags:
        for name in ("href", "src", "xlink:href", "action", "srcset"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))


def test_large_pictures_are_named_rather_than_shown_once_the_budget_is_spent(tmp_path):
    big = examples.png() + bytes(400_000)
    pictures = tuple(examples.artifact(tmp_path, "picture", f"{i}.png", big + bytes([i])) for i in range(3))
    folder = examples.write(tmp_path, [examples.finished("slim_unetr", pictures)])
    path = write_report([folder])
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 1_000_000
    assert text.count("<img ") == 1
    assert len(re.findall(r"artifacts/[12]\.png \(40\d kB\) was left out to keep this page below 1 MB", text)) == 2


def test_equal_records_give_equal_bytes_wherever_and_however_they_are_read(tmp_path):
    """Another folder, another locale, time zone and hash seed, and a matplotlibrc with opinions."""
    first = write_report([examples.whole_run(tmp_path / "here")]).read_bytes()
    other = examples.whole_run(tmp_path / "some where" / "else")
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 31\nsvg.fonttype: path\naxes.linewidth: 3\nxtick.major.size: 9\n"
    )
    code = "import sys, pathlib; from benchbench.report import write_report; write_report([pathlib.Path(sys.argv[1])])"
    changed = {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, env=os.environ | changed)
    assert (other / "report.html").read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_the_policy_allows_exactly_the_style_and_script_of_the_page(tmp_path):
    page = Page(write_report([examples.whole_run(tmp_path)]).read_text(encoding="utf-8"))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not [a for _, a in page.tags if "style" in a or any(name.startswith("on") for name in a)]


def test_reading_the_report_loads_neither_torch_nor_what_draws():
    code = "import sys, benchbench.report as r; r.FORMATS; print([m for m in sys.modules if m in sys.argv[1:]])"
    heavy = ["torch", "monai", "matplotlib", "pandas", "jinja2"]
    found = subprocess.run([sys.executable, "-c", code, *heavy], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


# Hostile text


def test_names_and_errors_are_text_and_never_markup(tmp_path):
    hostile = dataclasses.replace(examples.spec("slim_unetr"), name=ATTACK)
    kept = examples.artifact(tmp_path, "picture", "x.png", examples.png(), title=ATTACK)
    layer = {"module": ATTACK, "kind": ATTACK, "params": 1, "macs": 1}
    table = examples.artifact(tmp_path, "layers", "x.json", json.dumps({"modules": [layer]}).encode())
    done = examples.finished("slim_unetr", (kept, table), model=hostile)
    broken = examples.failed("unetr", "failed", ATTACK)
    text = write_report([examples.write(tmp_path, [done, broken])]).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    assert not [a for _, a in page.tags if "onerror" in a or "style" in a]
    assert "<script>alert(1)</script>" in page.visible
    assert text.count("<svg role=") == text.count('class="figure"') == 4


def test_every_id_is_there_once(tmp_path):
    page = Page(write_report(run_and_prediction(tmp_path)).read_text(encoding="utf-8"))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)) > 100
    targets = [a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")]
    targets += [t for _, a in page.tags for t in re.findall(r"url\(#([^)]*)\)", " ".join(a.values()))]
    labels = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert set(targets) | set(labels) <= set(ids)
    assert targets


def test_a_figure_keeps_no_colour_of_its_own(tmp_path):
    text = write_report(run_and_prediction(tmp_path)).read_text(encoding="utf-8")
    drawings = re.findall(r"<svg role=.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 8
    for drawing in drawings:
        assert not re.search(r"#[0-9a-fA-F]{6}\b", drawing)
        assert "<style" not in drawing
        assert "<metadata" not in drawing
        assert "var(--ink)" in drawing


def test_a_label_that_looks_like_an_attribute_stays_as_it_is():
    drawn = (
        '<svg viewBox="0 0 9 9"><text style="font: 11px \'X\'; fill: #010203"> style="fill: red" #010203</text></svg>'
    )
    found = style.inline(drawn, prefix="p", label='a "b"')
    assert found.endswith('<text font-size="11" fill="var(--ink)"> style="fill: red" #010203</text></svg>')
    assert 'aria-label="a &quot;b&quot;"' in found


# Accessible


def test_headings_tables_and_pictures_can_be_read_without_seeing_them(tmp_path):
    page = Page(write_report(run_and_prediction(tmp_path)).read_text(encoding="utf-8"))
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a.get("scope") in ("col", "colgroup", "row") for a in page.all("th"))
    assert all(a["alt"] and a["width"] and a["height"] for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("svg") if a.get("role") == "img")
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for a in page.all("svg"))


def test_the_order_of_the_table_is_announced_and_its_headings_are_buttons(tmp_path):
    page = Page(write_report([examples.whole_run(tmp_path)]).read_text(encoding="utf-8"))
    keys = [a["data-key"] for a in page.all("button")]
    assert keys == ["model", *(c for c in keys if c != "model")]
    assert [a["aria-sort"] for a in page.all("th") if "aria-sort" in a] == ["ascending"]
    latencies = [
        json.loads(a["data-sort"])["latency_s"] for a in page.all("tr") if "unet3d" not in a.get("data-sort", "unet3d")
    ]
    assert latencies == sorted(latencies)
    assert len(latencies) == 4


# What the page says


def test_every_number_of_the_table_has_an_origin():
    table = summary_rows([examples.finished(n) for n in examples.NETWORKS] + [examples.predicted("unetr")])
    for row in table.rows:
        for column in table.columns:
            cell = row.cell(column.key)
            assert (cell.origin is None) == (cell.value is None)
            if cell.value is None and column.key != "status":
                assert cell.text == "-"
                assert cell.note
    reference = examples.number("dice", 0.8, "reference", source="0123456789abcdef")
    row = summary_rows([examples.record("x", measurements=(reference,))]).rows[0]
    assert row.cells["dice"].origin == "reference"
    assert "0123456789abcdef" in row.cells["dice"].note


def test_a_published_figure_never_stands_where_ours_is_missing():
    published = examples.number("macs", 12.42e9, "published")
    row = summary_rows([examples.record("slim_unetr", measurements=(published,))]).rows[0]
    assert row.cells["macs"].text == "-"
    exported = export([examples.record("slim_unetr", measurements=(published,))], "csv")
    assert next(csv.DictReader(io.StringIO(exported)))["published_macs"] == "12420000000.0"
    assert ",macs," not in exported


@pytest.mark.parametrize("status", [s for s in rec.STATUSES if s not in ("ok", "unstable")])
def test_a_failure_is_a_row_with_its_status_and_reason(status):
    page = Page(text_of(examples.finished("slim_unetr"), examples.failed("unetr", status, "the reason why")))
    assert "the reason why" in page.visible
    assert status.replace("_", " ") in page.visible
    assert any(a.get("class") == "failed" for a in page.all("tr"))
    assert "1 of 2 rows finished" in page.visible


def test_what_was_timed_before_a_failure_does_not_count():
    """Half precision with a wrong output: the latencies are there, and the row failed."""
    slim, swin = (
        examples.finished("slim_unetr", status="failed", error="its output is off"),
        examples.finished("swin_unetr"),
    )
    rows = summary_rows([slim, swin]).rows
    assert [rows[0].cells[k].value for k in ("latency_s", "throughput_patches_per_s", "dice", "ratio")] == [None] * 4
    assert rows[0].cells["params"].value == 1_783_425
    assert rows[0].cells["memory_bytes"].origin == "analytic"
    assert rows[1].cells["ratio"].value is None
    smaller, faster, dice = claims.check([slim, swin])
    assert (smaller.origin, faster.origin, dice.origin) == ("analytic", None, None)
    assert faster.verdict == "not checked: these records hold no latency of slim_unetr"
    bars = figures_overview.bars(rows, "latency_s", prefix="b")
    assert bars is not None
    assert "slim_unetr" not in bars.svg


def test_a_forecast_memory_is_called_one_and_its_bar_is_hatched():
    measured, forecast = examples.finished("slim_unetr"), examples.finished("unetr")
    kept = tuple(m for m in forecast.measurements if m.metric != "peak_memory_bytes")
    forecast = dataclasses.replace(forecast, measurements=kept)
    table = summary_rows([measured, forecast])
    assert table.rows[0].cells["memory_bytes"].text == "94 MB"
    cell = table.rows[1].cells["memory_bytes"]
    assert (cell.text, cell.detail, cell.origin) == ("at least 966 MB", "tensors only", "analytic")
    drawing = figures_overview.bars(table.rows, "memory_bytes", prefix="m")
    assert drawing is not None
    assert drawing.svg.count("<pattern") == 1
    assert "not measured here (analytic)" in drawing.caption
    only_measured = figures_overview.bars(table.rows[:1], "memory_bytes", prefix="m")
    assert only_measured is not None
    assert "<pattern" not in only_measured.svg


def test_a_prediction_is_a_range_under_a_banner_that_names_its_device(tmp_path):
    alone = Page(write_report([examples.prediction(tmp_path / "b")]).read_text(encoding="utf-8")).visible
    assert "Nothing on this page was measured on jetson-orin-nano-8gb-super." in alone
    assert "176 to 703 ms" in alone
    assert "at least 176 ms" not in alone  # one end of a range would look like a promise
    assert "data sheet only" in alone
    assert "'bench calibrate' on the board narrows a range to about a fifth" in alone
    assert "a prediction cannot confirm or refute it" in alone
    assert "tensors only; may fit" in alone
    assert "tensors only; does not fit" in alone
    assert re.search(r"[\d.]+ to [\d.]+ 1/s", alone)
    measured = Page(write_report([examples.whole_run(tmp_path / "a")]).read_text(encoding="utf-8")).visible
    assert "Nothing on this page was measured" not in measured


def test_the_ratio_of_two_bounds_is_called_one_wherever_it_stands():
    records = [examples.predicted("slim_unetr"), examples.predicted("unetr")]
    slim, unetr = (row.cells["ratio"] for row in summary_rows(records).rows)
    assert slim.qualifier == ""  # 1 by definition
    assert unetr.qualifier == "ratio of bounds"
    assert f"{unetr.text} (ratio of bounds)" in export(records, "markdown")
    assert "ratio of bounds" in text_of(*records)
    measured = summary_rows([examples.finished("slim_unetr"), examples.finished("unetr")]).rows[1].cells["ratio"]
    assert measured.qualifier == ""


def test_dice_of_the_phantom_is_called_semi_synthetic_and_not_compared():
    page = Page(text_of(examples.finished("slim_unetr"), paper=True)).visible
    assert "semi-synthetic phantom: simulated tumours" in page
    assert "not comparable: ours is of a semi-synthetic phantom" in page
    assert "Dice, phantom" in page
    assert "Dice, semi-synthetic data" in text_of(*map(examples.finished, ("slim_unetr", "unetr")))
    assert "0.785 (semi-synthetic) [M]" in export([examples.finished("slim_unetr")], "markdown")
    assert ",phantom,semi-synthetic,test," in export([examples.finished("slim_unetr")], "csv")
    elsewhere = dataclasses.replace(examples.WORKLOAD, data="ward7")
    measurements = (examples.number("dice", 0.8, method="mean"),)
    ward = examples.record("slim_unetr", workload=elsewhere, measurements=measurements)
    other = Page(text_of(ward, paper=True)).visible
    assert "semi-synthetic phantom: simulated" not in other
    assert "not comparable: ours is not of BraTS2021" in other


def test_records_of_different_conditions_stand_in_tables_of_their_own():
    base = examples.finished("slim_unetr")
    for change in (
        {"workload": dataclasses.replace(examples.WORKLOAD, threads=1)},
        {"workload": dataclasses.replace(examples.WORKLOAD, spatial=(64, 64, 64))},
        {"workload": dataclasses.replace(examples.WORKLOAD, data="ward7")},
        {"device": dataclasses.replace(examples.CPU, name="Another CPU")},
        {"environment": examples.ENVIRONMENT | {"torch": "2.14.0"}},
        {"model": examples.spec("unetr", in_channels=1)},
    ):
        assert len(conditions.group([base, examples.finished("unetr", **change)])) == 2, change
    quiet = examples.ENVIRONMENT | {"load_average": [3.0, 2.0, 1.0]}
    assert len(conditions.group([base, examples.finished("unetr", environment=quiet)])) == 1
    threads = examples.finished("unetr", workload=dataclasses.replace(examples.WORKLOAD, threads=1))
    page = Page(text_of(base, threads))
    assert "2 sets of conditions, which differ in: threads." in page.visible
    assert len([a for a in page.all("table") if "data-sortable" in a]) == 2


def test_the_conditions_state_what_moved_the_numbers():
    said = dict(conditions.facts(conditions.group([examples.finished("slim_unetr")])[0]))
    assert said["Input"] == "1 x 4 x 128x128x128 (batch x channels x voxels), 3 outputs"
    assert said["Data for Dice"] == "phantom (semi-synthetic), split test"
    assert said["Versions"].startswith("benchbench 0.1.0, python 3.11.2, torch 2.13.0+cpu")
    assert said["Load average at start"] == "0.21"
    assert said["When"] == "2026-11-24 04:00:00 UTC"
    assert "Clock governor" not in said  # not known: left out, not guessed


def test_the_spread_of_samples_says_what_it_is():
    assert reliability.relative_spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (pytest.approx(2 / 3), "IQR / median")
    assert reliability.relative_spread([1.0, 1.1]) == (pytest.approx(0.1 / 1.05), "range / median")
    assert reliability.relative_spread([1.0]) == (None, "no repeats recorded")


def test_of_a_cell_measured_again_the_newest_record_counts():
    old = examples.failed("unetr")
    new = examples.finished("unetr", started_at="2026-11-24T05:00:00Z")
    page = Page(text_of(old, new)).visible
    assert "1 of 1 row finished" in page
    assert "out of memory" not in page


def test_two_rows_of_one_network_can_be_told_apart():
    pruned = examples.finished("slim_unetr", recipe={"kind": "prune", "ratio": 0.5})
    other = examples.finished("slim_unetr", model=examples.spec("slim_unetr", checkpoint="ab" * 32))
    labels = [row.label for row in summary_rows([examples.finished("slim_unetr"), pruned, other]).rows]
    assert labels[1] == "slim_unetr [kind=prune, ratio=0.5]"
    assert len(set(labels)) == 3


def test_the_command_to_reproduce_is_quoted_for_a_shell():
    odd = examples.finished("slim_unetr", model=examples.spec("my nets/x.toml"))
    command = conditions.reproduce(conditions.group([odd])[0])
    assert command == (
        "bench run --models 'my nets/x.toml' --device cpu --spatial 128 128 128 --batch-size 1 --dtype fp32 "
        "--protocol quick --data phantom"
    )


# Little or broken input


def test_a_page_of_no_records_says_so(tmp_path):
    page = Page(write_report([examples.write(tmp_path, [])]).read_text(encoding="utf-8"))
    assert "No records" in page.visible
    assert not page.all("table")


@pytest.mark.parametrize(
    "records",
    [
        [examples.failed("unetr")],
        [examples.failed("x", "failed"), examples.failed("y", "timeout")],
        [examples.finished("slim_unetr")],
        [examples.record("bare")],
        [examples.record("bare", environment={}, workload=rec.Workload())],
        [
            examples.record(
                "odd",
                measurements=(examples.number("latency_s", float("nan")), examples.number("params", 0, "analytic")),
            )
        ],
    ],
    ids=["one failed", "all failed", "one row", "no measurement", "no environment", "not a number"],
)
def test_a_page_of_almost_nothing_is_whole_and_free_of_nan(records):
    page = Page(text_of(*records))
    numbers = [word for word in page.visible.split() if word.lower() in ("nan", "inf", "none", "undefined")]
    assert numbers == []
    for attrs in page.all("tr"):
        if "data-sort" in attrs:
            json.loads(attrs["data-sort"], parse_constant=pytest.fail)


def test_a_missing_damaged_or_foreign_artifact_becomes_a_note(tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(examples.png())
    folder = tmp_path / "run"
    gone = examples.artifact(folder, "picture", "gone.png", examples.png())
    changed = examples.artifact(folder, "picture", "changed.png", examples.png())
    no_png = examples.artifact(folder, "picture", "text.png", b"not a picture")
    no_json = examples.artifact(folder, "layers", "broken.json", b'{"modules": [{"module": "a"}]}')
    escape = dataclasses.replace(gone, path="../secret.png")
    (folder / "artifacts" / "gone.png").unlink()
    (folder / "artifacts" / "changed.png").write_bytes(examples.png(height=8))
    record = examples.finished("slim_unetr", (gone, changed, no_png, no_json, escape))
    page = Page(write_report([examples.write(folder, [record])]).read_text(encoding="utf-8"))
    assert "artifacts/gone.png is not beside the records" in page.visible
    assert "artifacts/changed.png was changed after the run" in page.visible
    assert "artifacts/text.png is no PNG" in page.visible
    assert "the layer table cannot be read (KeyError: 'kind')" in page.visible
    assert "../secret.png was not read: it is not inside the results folder" in page.visible
    assert not page.all("img")


def test_an_unwritable_place_is_one_line_and_an_older_page_stays(tmp_path):
    folder = examples.whole_run(tmp_path)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write .*; choose another --out") as caught:
        write_report([folder], tmp_path / "taken" / "report.html")
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError):
        write_report([folder], tmp_path / "artifacts")
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(StoreError, match="no records"):
        write_report([tmp_path / "nowhere"])
    with pytest.raises(UsageError):
        write_report([])


# Claims


def test_the_claims_are_recomputed_from_the_papers_tables_and_from_our_records():
    smaller, faster, dice = claims.check([examples.finished("slim_unetr"), examples.finished("swin_unetr")])
    assert smaller.recomputed.endswith("= 34.6 x")
    assert faster.recomputed.endswith("= 13.4 x")
    assert dice.recomputed.endswith("= 92.44 %")
    assert smaller.ours.startswith("34.9 x (62.2 M / 1.78 M)")
    assert smaller.origin == "analytic"
    assert smaller.verdict.startswith("agrees")
    assert faster.ours == "159 x (151 to 163, from both ranges of samples)"
    assert faster.verdict.startswith("faster by more than claimed on this device")


@pytest.mark.parametrize(
    ("swin_s", "said"),
    [
        (13.4, "consistent"),
        (14.2, "consistent"),
        (5.0, "faster by less"),
        (0.5, "slower"),
        (1.0, "not clearly faster"),
        (40.0, "faster by more"),
    ],
)
def test_the_verdict_on_speed_follows_the_interval_and_not_the_middle(swin_s, said):
    slim = examples.number("latency_s", 1.0, ci95=(0.95, 1.05))
    swin = examples.number("latency_s", swin_s, ci95=(swin_s * 0.95, swin_s * 1.05))
    rows = [examples.record("slim_unetr", measurements=(slim,)), examples.record("swin_unetr", measurements=(swin,))]
    assert claims.check(rows)[1].verdict.startswith(said)


def test_a_claim_without_its_networks_is_not_checked_and_names_them():
    smaller, faster, dice = claims.check([examples.finished("slim_unetr"), examples.failed("swin_unetr")])
    assert smaller.origin == "analytic"  # a count needs no run
    assert faster.origin is None
    assert faster.verdict == "not checked: these records hold no latency of swin_unetr"
    assert claims.check([])[2].verdict == "no Dice of slim_unetr in these records"
    assert dice.origin == "measured"


def test_the_published_figure_stands_beside_our_count_with_the_factor():
    record = examples.finished("slim_unetr")
    found = published_beside_ours([record], {record.id: "slim_unetr"})
    assert [(c["published"], c["ours"]) for c in found] == [
        ("1.790 M", "1.783 M"),
        ("12.42 G, called GFLOPs", "2.516 GMAC"),
    ]
    assert found[1]["factor"] == "4.94 x"


# Figures and layers


def test_the_scatter_shows_dice_where_two_rows_have_it_and_else_says_why_not():
    both = summary_rows([examples.finished(n) for n in examples.NETWORKS]).rows
    drawn = figures_overview.scatter(both, prefix="s")
    assert drawn is not None
    assert drawn.title == "Accuracy and cost"
    assert "slim_unetr, nnunet." in drawn.caption  # unetr is slower and less accurate than slim_unetr
    one = figures_overview.scatter(both[:1] + both[3:], prefix="s")
    assert one is not None
    assert one.title == "Size and compute"
    assert one.caption.startswith("Only one row has both a Dice and a latency")


def test_a_reference_dice_is_drawn_hollow_and_named():
    own, other = examples.finished("slim_unetr"), examples.finished("unetr")
    swapped = [dataclasses.replace(m, origin="reference") if m.metric == "dice" else m for m in other.measurements]
    rows = summary_rows([own, dataclasses.replace(other, measurements=tuple(swapped))]).rows
    drawn = figures_overview.scatter(rows, prefix="s")
    assert drawn is not None
    assert "Dice: measured (slim_unetr), reference (unetr)." in drawn.caption
    assert "Hollow marks" in drawn.caption
    assert "var(--paper)" in drawn.svg


def test_names_that_look_like_formulas_are_drawn_as_they_are():
    odd = [examples.finished(n, model=examples.spec(f"${n}^2$")) for n in ("slim_unetr", "unetr")]
    rows = summary_rows(odd).rows
    for drawn in (figures_overview.scatter(rows, prefix="s"), figures_overview.bars(rows, "latency_s", prefix="b")):
        assert drawn is not None
        assert ">$slim_unetr^2$</text>" in drawn.svg


def test_the_layer_table_adds_up_and_shows_the_heaviest_first():
    table = layers.breakdown(examples.layer_table("slim_unetr", 50), top=4)
    assert table.macs == examples.NETWORKS["slim_unetr"][1]
    assert sum(one.macs for one in table.layers) == table.macs
    assert sum(one.params for one in table.layers) == table.params
    assert sum(one.macs_share for one in table.layers) == pytest.approx(1)
    assert [one.macs for one in table.layers[:4]] == sorted((one.macs for one in table.layers[:4]), reverse=True)
    assert table.layers[-1].module == "44 others"
    assert sum(share for _, share in table.kinds) == pytest.approx(1)


def test_the_parts_of_a_network_are_the_first_names_that_tell_its_modules_apart():
    sizes = {"net.encoder.a": (1, 60), "net.encoder.b": (1, 20), "net.head": (2, 20)}
    modules = [{"module": name, "kind": "conv", "params": p, "macs": m} for name, (p, m) in sizes.items()]
    table = layers.breakdown(json.dumps({"modules": modules}).encode())
    assert table.parts == (("encoder", 0.8, 0.5), ("head", 0.2, 0.5))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"modules": 3}', b'{"modules": [{"module":"a","kind":"b","params":-1,"macs":0}]}']
)
def test_a_layer_table_that_is_none_is_refused(content):
    with pytest.raises(StoreError, match="the layer table cannot be read"):
        layers.breakdown(content)


def test_a_layer_table_that_disagrees_with_the_count_says_so(tmp_path):
    kept = examples.artifact(tmp_path, "layers", "x.json", examples.layer_table("unetr"))
    folder = examples.write(tmp_path, [examples.finished("slim_unetr", (kept,))])
    page = Page(write_report([folder]).read_text(encoding="utf-8")).visible
    assert "The layer table adds up to 184 GMAC, the whole network to 2.52 GMAC." in page


# Export


def test_csv_and_json_hold_full_values_each_with_its_origin(tmp_path):
    records = [r for f in run_and_prediction(tmp_path) for r in core_results.read_records(f)]
    rows = list(csv.DictReader(io.StringIO(export(records, "csv"))))
    assert len(rows) == len(records)
    assert (rows[0]["macs"], rows[0]["macs_origin"]) == ("2516379648", "analytic")
    assert (rows[-1]["latency_s_origin"], rows[-1]["latency_s_bound"]) == ("predicted", "at_least")
    values = {name for name in rows[0] if f"{name}_origin" in rows[0]}
    assert {"params", "macs", "latency_s", "dice_wt", "published_macs"} <= values
    data = json.loads(export(records, "json"))
    assert data[0]["values"]["macs"]["value"] == 2516379648
    assert all(v["origin"] in rec.ORIGINS for row in data for v in row["values"].values())
    assert data[4]["status"] == "oom"


def test_markdown_and_latex_letter_every_number_and_escape_names():
    odd = examples.finished("slim_unetr", model=examples.spec("a|b_c & 5%\nd"))
    markdown, latex = export([odd], "markdown"), export([odd], "latex")
    assert r"| a\|b\_c & 5% d | 1.78 M [A] | 2.52 GMAC [A] | 171 ms [M] |" in markdown
    assert r"a|b\_c \& 5\% d & 1.78 M [A] & 2.52 GMAC [A] & 171 ms [M]" in latex
    assert "[M] measured" in markdown
    assert "oom: no room" in export([examples.failed("x", "oom", "no room")], "markdown")


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(UsageError, match="did you mean 'markdown'"):
        export([], "markdwn")


def test_nothing_to_export_is_an_empty_table_and_not_an_error():
    assert json.loads(export([], "json")) == []
    assert export([], "csv").strip() == ""
