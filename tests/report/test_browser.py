"""The report in a real browser: its content policy holds, its tables sort, and it fits a telephone.

Chromium opens a small page that holds the report in a frame of a chosen width, works it as a person
would, and writes down what it found; both come from a server on this machine.
"""

from __future__ import annotations

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
      const names = () => [...page.querySelectorAll('tbody tr th')].map(cell => cell.firstChild.textContent.trim());
      page.querySelector('button[data-key=macs]').click();
      const up = names();
      page.querySelector('button[data-key=macs]').click();
      return { up, down: names(), figures: page.querySelectorAll('figure svg').length };
    """
    found, console = visit(script, address="search.html")
    assert console == ""
    assert found["down"] == found["up"][::-1]
    assert found["figures"] >= 4


def test_a_script_that_is_not_the_pages_own_does_not_run(visit):
    found, console = visit("return { ran: win.ran ?? null };", address="hostile.html")
    assert found["ran"] is None
    assert "Content Security Policy" in console


def test_a_heading_sorts_by_pointer_and_keyboard_and_failures_stay_last(visit):
    found, console = visit(
        """
        const steps = [[names(), state()]];
        const button = page.querySelector('button[data-key="params"]');
        button.click(); steps.push([names(), state()]);
        button.click(); steps.push([names(), state()]);
        button.focus();
        return { steps, hash: win.location.hash, focus: page.activeElement === button, tag: button.tagName,
                 said: page.querySelector("[aria-live]").textContent };
        """
    )
    by_latency = ["slim_unetr", "unetr", "nnunet", "swin_unetr", "unet3d"]
    by_params = ["slim_unetr", "nnunet", "swin_unetr", "unetr", "unet3d"]
    assert [names for names, _ in found["steps"]] == [by_latency, by_params, [*by_params[3::-1], "unet3d"]]
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


@pytest.mark.parametrize(
    "address",
    [
        "report.html",
        "open.html",
        "audit.html",
        "audit-open.html",
        "compare.html",
        "trust.html",
        "runtimes.html",
        "search.html",
    ],
)
def test_at_400_pixels_nothing_makes_the_page_scroll_sideways(visit, address):
    found, _ = visit(
        """
        const wide = Array.from(page.querySelectorAll("body *")).filter((e) => !e.closest(".scroll, .vh, svg")
          && e.getBoundingClientRect().right > 401).map((e) => e.outerHTML.slice(0, 120));
        const text = page.querySelector("svg.figure text").getBoundingClientRect().height;
        return { inner: win.innerWidth, content: page.documentElement.scrollWidth, wide, text };
        """,
        address=address,
        width=400,
    )
    assert found["inner"] <= 404
    assert found["wide"] == []
    assert found["content"] <= found["inner"]
    assert found["text"] >= 9  # the labels of the figures can still be read


def test_a_table_of_several_runtimes_needs_no_scrolling_on_a_desktop_and_sorts_by_runtime(visit):
    found, _ = visit(
        """
        const box = page.querySelector("table.ways").parentElement;
        page.querySelector('table.ways button[data-key="runtime"]').click();
        const runtimes = Array.from(page.querySelectorAll("table.ways tbody tr"), (row) => row.cells[1].innerText);
        return { content: box.scrollWidth, room: box.clientWidth, first: runtimes[0], last: runtimes.at(-1) };
        """,
        address="runtimes.html",
        width=1280,
    )
    assert found["content"] <= found["room"]
    assert (found["first"], found["last"]) == ("eager", "openvino, rewritten")


def _luminance(colour: str) -> float:
    red, green, blue = (int(v) / 255 for v in re.findall(r"\d+", colour)[:3])
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_table_with_two_rows_of_headings_sorts_alone(visit):
    found, console = visit(
        """
        const table = page.querySelector("#pparameters").closest("section").querySelector("table");
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
