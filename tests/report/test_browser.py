"""The report in a real browser: its content policy holds, its tables sort, and it fits a telephone.

Chromium opens a small page that holds the report in a frame of a chosen width, works it as a person
would, and writes down what it found; both come from a server on this machine.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchbench.core import records as rec
from benchbench.report import write_comparison, write_report
from benchbench.report.compare.compare import compare
from tests import compare_examples
from tests import report_examples as examples

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

WRAPPER = """<!doctype html><title>t</title>
<iframe id=f width=%d height=900 src="%s"></iframe><pre id=out></pre>
<script>
document.getElementById("f").onload = async () => {
  const frame = document.getElementById("f"), page = frame.contentDocument, win = frame.contentWindow;
  const names = () => Array.from(page.querySelectorAll("table[data-sortable] tbody th"), (th) => th.firstChild.data);
  const shown = () => Array.from(page.querySelectorAll("table[data-main] tbody tr:not([hidden])"), (row) =>
    row.cells[0].firstChild.data);
  const state = () => Array.from(page.querySelectorAll("th[aria-sort]"), (th) => [th.innerText.trim(), th.ariaSort]);
  let found;
  try { found = await (async () => { %s })(); } catch (error) { found = { error: String(error) }; }
  document.getElementById("out").textContent = JSON.stringify(found);
};
</script>"""

Visit = Callable[..., tuple[Any, str]]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # each visit has a wrapper of its own under one name
        super().end_headers()


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """Run a script on the report at a given width; gives what it returned, and the browser's console."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install chromium to run the tests of the page in a browser")
    root: Path = tmp_path_factory.mktemp("browser")
    page = write_report([examples.whole_run(root / "a"), examples.prediction(root / "b")], root / "report.html")
    write_report([examples.whole_run(root / "a")], root / "one.html")
    write_report([examples.several_runtimes(root / "r")], root / "runtimes.html")
    write_report([examples.write(root / "f", families())], root / "families.html")
    found = compare(compare_examples.run(1), compare_examples.run(2, factor=1.08))
    write_comparison(found, ("before", "after"), root / "compare.html")
    folders = [examples.whole_zoo(root / "z"), examples.sweep(root / "s"), examples.patients(root / "p")]
    write_report(folders, root / "trust.html")
    write_report([Path(__file__).parents[2] / "results" / "reference" / "search-hippocampus"], root / "search.html")
    audits = write_report([examples.whole_audit(root / "c"), root / "a"], root / "audit.html")
    opened = audits.read_text(encoding="utf-8").replace("<details>", "<details open>")
    (root / "audit-open.html").write_text(opened, encoding="utf-8")
    opened = page.read_text(encoding="utf-8").replace("<details>", "<details open>")
    (root / "open.html").write_text(opened, encoding="utf-8")
    hostile = page.read_text(encoding="utf-8").replace("</main>", "<script>window.ran = 1</script></main>")
    (root / "hostile.html").write_text(hostile, encoding="utf-8")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def go(
        script: str, *, address: str = "one.html", width: int = 1200, flags: tuple[str, ...] = ()
    ) -> tuple[Any, str]:
        (root / "wrapper.html").write_text(WRAPPER % (width, address, script), encoding="utf-8")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        command += [f"--user-data-dir={root / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", *flags]
        url = f"http://127.0.0.1:{server.server_port}/wrapper.html"
        done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120, check=True)
        match = re.search(r"<pre id=\"out\">(.*?)</pre>", done.stdout, flags=re.DOTALL)
        assert match, f"the page never loaded: {done.stderr[-2000:]}"
        found = json.loads(html.unescape(match[1]))
        assert "error" not in found, found["error"]
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "favicon" not in line]
        return found, "\n".join(console)

    yield go
    server.shutdown()
    server.server_close()


def families() -> list[rec.Record]:
    """Sixteen networks of four architectures, four variants each, the first of each the fastest and least accurate."""
    records = []
    for i in range(16):
        arch, variant = f"benchbench.models.a{i % 4}:Net{i % 4}", i // 4
        dice = examples.number("dice", 0.5 + 0.02 * i, values=(0.49 + 0.02 * i, 0.51 + 0.02 * i))
        time = examples.number("latency_s", 1.0 + i, values=(0.9 + i, 1.1 + i), ci95=(0.9 + i, 1.1 + i))
        beaten = variant in (1, 2)  # neither fast nor accurate
        found = (*examples.counted("unetr"), time, dataclasses.replace(dice, value=0.4) if beaten else dice)
        name = f"net{i % 4}_{'abcd'[variant]}"
        records.append(examples.record(name, model=examples.spec(name, arch=arch), measurements=found))
    return records


def test_the_page_loads_without_a_complaint_of_its_content_policy(visit):
    found, console = visit("return { styled: win.getComputedStyle(page.body).marginTop };", address="report.html")
    assert found["styled"] == "0px"  # the stylesheet's hash was accepted
    assert console == ""


def test_the_page_of_a_comparison_loads_without_a_complaint_and_sorts(visit):
    found, console = visit(
        """
        page.querySelector('button[data-key="change"]').click();
        page.querySelector('button[data-key="change"]').click();
        return { styled: win.getComputedStyle(page.body).marginTop, first: names()[0] };
        """,
        address="compare.html",
    )
    assert (found["styled"], found["first"]) == ("0px", "slim_unetr")
    assert console == ""


def test_the_page_of_a_search_loads_without_a_complaint_and_sorts(visit):
    script = """
      const heads = () => [...page.querySelectorAll('table[data-sortable] tbody tr th')];
      const names = () => heads().map(cell => cell.firstChild.textContent.trim());
      page.querySelector('button[data-key=macs]').click();
      const up = names();
      page.querySelector('button[data-key=macs]').click();
      return { up, down: names(), figures: page.querySelectorAll('figure svg').length };
    """
    found, console = visit(script, address="search.html")
    assert console == ""
    assert len(found["up"]) > 1
    assert found["down"] == found["up"][::-1]
    assert found["figures"] >= 4


def test_a_script_that_is_not_the_pages_own_does_not_run(visit):
    found, console = visit("return { ran: win.ran ?? null };", address="hostile.html")
    assert found["ran"] is None
    assert "Content Security Policy" in console


def test_a_heading_sorts_by_pointer_and_keyboard_and_failures_stay_below(visit):
    found, console = visit(
        """
        const steps = [[names(), state()]];
        const button = page.querySelector('button[data-key="params"]');
        button.click(); steps.push([names(), state()]);
        button.click(); steps.push([names(), state()]);
        button.focus();
        const failed = Array.from(page.querySelectorAll("tr.failed th"), (th) => th.textContent);
        return { steps, failed, hash: win.location.hash, focus: page.activeElement === button, tag: button.tagName,
                 said: page.querySelector("p.vh[aria-live]").textContent };
        """
    )
    by_latency = ["slim_unetr", "unetr", "nnunet", "swin_unetr"]
    by_params = ["slim_unetr", "nnunet", "swin_unetr", "unetr"]
    assert [names for names, _ in found["steps"]] == [by_latency, by_params, by_params[::-1]]
    assert found["failed"] == ["unet3d"]
    directions = [state[0][1] for _, state in found["steps"]]
    assert directions == ["ascending", "ascending", "descending"]
    assert all(len(state) == 1 for _, state in found["steps"])
    assert found["hash"] == "#sort=-params"
    assert (found["focus"], found["tag"]) == (True, "BUTTON")
    assert found["said"] == "Sorted by Params, largest first."
    assert console == ""


def test_a_link_can_ask_for_an_order(visit):
    found, _ = visit("return { names: names() };", address="one.html#sort=-dice")
    assert found["names"][:3] == ["nnunet", "slim_unetr", "unetr"]
    same, _ = visit("return { names: names() };", address="one.html#sort=nonsense")
    assert same["names"][0] == "slim_unetr"


PAGES = ["report.html", "open.html", "compare.html", "trust.html", "runtimes.html", "families.html"]
OTHERS = ["audit.html", "audit-open.html", "search.html"]


@pytest.mark.parametrize(
    ("address", "width"),
    [(page, 400) for page in OTHERS] + [(page, width) for page in PAGES for width in (400, 900, 1280)],
)
def test_nothing_makes_the_page_scroll_sideways_or_is_cut(visit, address, width):
    found, _ = visit(
        """
        const wide = Array.from(page.querySelectorAll("body *")).filter((e) => !e.closest(".scroll, .vh, svg")
          && e.getBoundingClientRect().right > win.innerWidth + 1).map((e) => e.outerHTML.slice(0, 120));
        const text = page.querySelector("svg.figure text").getBoundingClientRect().height;
        return { inner: win.innerWidth, content: page.documentElement.scrollWidth, wide, text };
        """,
        address=address,
        width=width,
    )
    assert found["inner"] <= width + 4
    assert found["wide"] == []
    assert found["content"] <= found["inner"]
    assert found["text"] >= 9  # the labels of the figures can still be read


@pytest.mark.parametrize("address", ["one.html", "runtimes.html", "families.html"])
def test_the_main_table_needs_no_scrolling_on_a_desktop_beside_its_picture(visit, address):
    found, _ = visit(
        """
        const box = page.querySelector("table[data-main]").parentElement.getBoundingClientRect();
        const table = page.querySelector("table[data-main]").getBoundingClientRect();
        const picture = page.querySelector("figure.picture").getBoundingClientRect();
        return { content: table.width, room: box.width, beside: picture.right < box.left && picture.top < box.bottom };
        """,
        address=address,
        width=1280,
    )
    assert found["content"] <= found["room"] + 1
    assert found["beside"]


def test_a_column_can_be_chosen_and_sorted_by(visit):
    found, console = visit(
        """
        const head = page.querySelector('th[data-col="runtime"]');
        const before = head.hidden;
        const box = page.querySelector('.columns input[value="runtime"]');
        box.click();
        head.querySelector("button").click();
        const cells = Array.from(page.querySelectorAll('td[data-col="runtime"]'));
        const said = { before, after: head.hidden, first: cells[0].innerText, last: cells.at(-1).innerText,
          hidden: cells.filter((cell) => cell.hidden).length };
        box.click();
        return { ...said, again: page.querySelectorAll('[data-col="runtime"]:not([hidden])').length };
        """,
        address="runtimes.html",
    )
    assert (found["before"], found["after"], found["hidden"], found["again"]) == (True, False, 0, 0)
    assert (found["first"], found["last"]) == ("eager", "openvino, rewritten")
    assert console == ""


def test_rows_fold_by_architecture_but_for_the_front_and_a_filter_finds_the_folded(visit):
    found, console = visit(
        """
        const steps = [shown()];
        const more = page.querySelector("button.more");
        const said = [more.textContent, more.getAttribute("aria-expanded")];
        more.click(); steps.push(shown());
        const filter = page.querySelector(".tools input[type=search]");
        filter.value = "NET1_ eager"; filter.dispatchEvent(new Event("input")); steps.push(shown());
        const count = page.querySelector(".shown").textContent;
        filter.value = "nothing"; filter.dispatchEvent(new Event("input")); steps.push(shown());
        filter.value = ""; filter.dispatchEvent(new Event("input"));
        page.querySelector(".tools input[data-fold]").click(); steps.push(shown());
        return { steps, said, count, tools: page.querySelector(".tools").hidden };
        """,
        address="families.html",
    )
    folded, opened, filtered, none, everything = found["steps"]
    best = [f"net{i}_d" for i in range(4)]
    assert folded == [*(f"net{i}_a" for i in range(4)), *best]
    assert found["said"] == ["2 more Net0", "false"]
    assert set(opened) - set(folded) == {"net0_b", "net0_c"}
    assert filtered == ["net1_a", "net1_b", "net1_c", "net1_d"]
    assert found["count"] == "4 of 16 rows"
    assert none == []
    assert len(everything) == 16
    assert (found["tools"], console) == (False, "")


def test_folded_rows_follow_the_order(visit):
    found, _ = visit(
        """
        page.querySelector('button[data-key="latency_s"]').click();
        return { shown: shown(), buttons: page.querySelectorAll("button.more").length };
        """,
        address="families.html",
    )
    assert found["shown"][:4] == ["net3_d", "net2_d", "net1_d", "net0_d"]
    assert found["buttons"] == 4


def test_a_row_and_its_point_mark_each_other_by_pointer_and_keyboard(visit):
    found, console = visit(
        """
        const row = page.querySelector('tr[data-mark]'), svg = page.querySelector("figure.picture svg");
        const other = Array.from(page.querySelectorAll("tr[data-mark]"))[1];
        const picked = page.querySelector(".picked");
        const on = () => Array.from(svg.querySelectorAll(".on"), (mark) => mark.id);
        const steps = {};
        row.dispatchEvent(new MouseEvent("mouseenter")); steps.over = [on(), picked.textContent];
        row.dispatchEvent(new MouseEvent("mouseleave")); steps.left = [on(), svg.classList.contains("linked")];
        row.focus(); steps.focus = [on(), page.activeElement === row];
        row.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
        row.blur(); steps.kept = [on(), row.getAttribute("aria-selected")];
        row.dispatchEvent(new KeyboardEvent("keydown", { key: " ", bubbles: true }));
        steps.loose = [on(), row.getAttribute("aria-selected")];
        const point = page.getElementById(other.dataset.mark);
        point.dispatchEvent(new MouseEvent("click", { bubbles: true }));
        steps.point = [on(), other.getAttribute("aria-selected")];
        return { steps, row: row.dataset.mark, other: other.dataset.mark };
        """
    )
    steps, row, other = found["steps"], found["row"], found["other"]
    assert steps["over"][0] == [row]
    assert steps["over"][1].startswith("slim_unetr, Latency 171 ms")
    assert steps["left"] == [[], False]
    assert steps["focus"] == [[row], True]
    assert steps["kept"] == [[row], "true"]
    assert steps["loose"] == [[], None]
    assert steps["point"] == [[other], "true"]
    assert console == ""


def _luminance(colour: str) -> float:
    red, green, blue = (int(v) / 255 for v in re.findall(r"\d+", colour)[:3])
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_table_with_two_rows_of_headings_sorts_alone(visit):
    found, console = visit(
        """
        const table = page.querySelector("#pparameters").closest("details").querySelector("table");
        const first = () => Array.from(table.tBodies[0].rows, (row) => row.cells[0].firstChild.data).slice(0, 3);
        const steps = [first()];
        const others = () => Array.from(page.querySelectorAll("table[data-sortable]")).filter((t) => t !== table)
          .map((t) => t.tBodies[0].textContent).join();
        const before = others();
        table.querySelector('button[data-key="true"]').click(); steps.push(first());
        table.querySelector('button[data-key="model"]').click(); steps.push(first());
        const said = table.closest("section").querySelector("[aria-live]").textContent;
        return { steps, said, same: others() === before, sorted: table.querySelectorAll("[aria-sort]").length };
        """,
        address="audit.html",
    )
    assert found["steps"][0][:2] == ["UNETR++", "TransBTS"]
    assert found["steps"][1] == ["Slim UNETR", "AttUNet", "SegResNet"]
    assert found["steps"][2] == ["AttUNet", "E1D3 UNet", "SegResNet"]
    assert found["said"] == "Sorted by Network, smallest first."
    assert (found["same"], found["sorted"]) == (True, 1)
    assert console == ""


@pytest.mark.parametrize(
    "address", ["report.html", "audit-open.html", "compare.html", "trust.html", "runtimes.html", "search.html"]
)
@pytest.mark.parametrize(("scheme", "flag"), [("light", 1), ("dark", 0)])
def test_text_and_marks_contrast_with_the_paper_in_light_and_in_dark(visit, scheme, flag, address):
    found, _ = visit(
        """
        const of = (selector, property) => Array.from(page.querySelectorAll(selector),
          (e) => win.getComputedStyle(e)[property]);
        return { dark: win.matchMedia("(prefers-color-scheme: dark)").matches,
                 paper: of("body", "backgroundColor")[0],
                 text: of("body, .lead, figcaption, td, th, .why, .detail, .status, .badge.predicted, a", "color"),
                 figure: of("svg.figure text", "fill"), marks: of("svg.figure use", "fill") };
        """,
        address=address,
        flags=(f"--blink-settings=preferredColorScheme={flag}",),
    )
    assert found["dark"] == (scheme == "dark")

    def contrast(colour: str) -> float:
        a, b = sorted((_luminance(colour), _luminance(found["paper"])), reverse=True)
        return (a + 0.05) / (b + 0.05)

    assert min(map(contrast, found["text"])) >= 4.5
    assert min(map(contrast, found["figure"])) >= 4.5
    marks = [m for m in found["marks"] if m.startswith("rgb(")]
    assert max(map(contrast, marks)) >= 3
