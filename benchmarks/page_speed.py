"""What a page of very many networks costs to make and to load: `python benchmarks/page_speed.py [COUNT ...]`.

Records of COUNT networks (150, 2000 and 10000) are made from committed ones, each with another name, other times, and
another Dice of each case; then a fresh process writes their page. Told are its processor time, the most memory that it
held, and the size of the page; with Chromium at hand also the seconds until the page is loaded. Bounds: 20 s of
processor time for up to 150 networks and 120 s for up to 2000; 300 MB of memory, whatever their number; a page of 1 MB
that is loaded in 2 s. The exit code is 1 where one is missed.

Up to 2000 the networks are those of patients, which all have a Dice, single cases, layers, pictures and a training;
beyond that those of the whole zoo, which mostly do not. `--keep DIR` leaves folders and pages there, `--profile` tells
where the time went.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
COUNTS = (150, 2000, 10_000)
MOST_S = {150: 20.0, 2000: 120.0}  # networks -> seconds of processor time
MOST_BYTES, MOST_PAGE_BYTES, MOST_LOAD_S = 300e6, 1e6, 2.0
FROM, FROM_MANY = "hippocampus", "hippocampus-zoo"

#: What the fresh process runs: the folder and the page are its arguments.
CHILD = """
import resource, sys
from pathlib import Path
from benchbench.report import write_report
folder, page, profile = sys.argv[1:]
if profile:
    import cProfile, pstats
    with cProfile.Profile() as run:
        write_report([Path(folder)], Path(page), force=True)
    pstats.Stats(run, stream=sys.stderr).sort_stats(profile).print_stats(25)
else:
    write_report([Path(folder)], Path(page), force=True)
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
"""

WRAPPER = """<!doctype html><iframe width=1280 height=900 id=f></iframe><pre id=out></pre><script>
const start = performance.now();
f.onload = () => { out.textContent = (performance.now() - start).toFixed(1); };
f.src = "%s";
</script>"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", nargs="*", type=int, default=COUNTS)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--profile", nargs="?", const="cumtime", default="", choices=("cumtime", "tottime"))
    args = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or Path(temporary)
        for count in args.counts:
            folder, page = root / str(count), root / f"{count}.html"
            if not (folder / "records.jsonl").exists():
                make(folder, count)
            lines = list(costs(folder, page, count, args.profile))
            print(f"{count} networks: " + "; ".join(text for text, _ in lines), flush=True)
            missed |= any(too_much for _, too_much in lines)
    return int(missed)


def costs(folder: Path, page: Path, count: int, profile: str) -> Iterator[tuple[str, bool]]:
    """What is told of one page, and whether it is too much."""
    command = [sys.executable, "-c", CHILD, str(folder), str(page), profile]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    seconds, memory = map(float, out.split())
    most_s = next((limit for n, limit in MOST_S.items() if count <= n), float("inf"))
    yield f"{seconds:.1f} s of processor time", seconds > most_s
    yield f"{memory / 1e6:.0f} MB at the most", memory > MOST_BYTES
    size = page.stat().st_size
    yield f"a page of {size / 1e3:.0f} kB", size > MOST_PAGE_BYTES
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium:
        loaded = load_s(chromium, page)
        yield f"loaded in {loaded:.2f} s", loaded > MOST_LOAD_S


def load_s(chromium: str, page: Path) -> float:
    """Seconds until a browser has loaded the page."""
    with tempfile.TemporaryDirectory() as profile:
        wrapper = Path(profile) / "wrapper.html"
        wrapper.write_text(WRAPPER % page.resolve().as_uri(), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--timeout=60000", f"--user-data-dir={profile}/p"]
        command = [chromium, *flags, "--dump-dom", wrapper.as_uri()]
        dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="out">([\d.]+)</pre>', dom)
    return float(found[1]) / 1e3 if found else float("inf")


def make(folder: Path, count: int) -> None:
    """A results folder of so many networks."""
    source = REFERENCE / (FROM if count <= max(MOST_S) else FROM_MANY)
    lines = [json.loads(line) for line in (source / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    shutil.copytree(source / "artifacts", folder / "artifacts", dirs_exist_ok=True)
    with open(folder / "records.jsonl", "w", encoding="utf-8") as out:
        for i in range(count):
            out.write(json.dumps(another(lines[i % len(lines)], i, folder)) + "\n")


def another(record: dict[str, Any], i: int, folder: Path) -> dict[str, Any]:
    """A record of another network: its times scaled, its Dice moved."""
    record = json.loads(json.dumps(record))
    record["model"]["name"] = f"{record['model']['name']}_{i}"
    factor, less = 1 + 0.37 * (i * 0.618 % 1), 0.2 * (i * 0.382 % 1)
    for m in record["measurements"]:
        if m["value"] is None or m["origin"] == "published":
            continue
        if m["metric"].startswith("dice"):
            moved = [max(0.0, v - less) for v in (m["value"], *m["values"], *(m["ci95"] or ()))]
        elif m["unit"] == "s":
            moved = [v * factor for v in (m["value"], *m["values"], *(m["ci95"] or ()))]
        else:
            continue
        m["value"], m["values"] = moved[0], moved[1 : 1 + len(m["values"])]
        m["ci95"] = moved[1 + len(m["values"]) :] or None
    for artifact in record["artifacts"]:
        if artifact["kind"] == "cases":
            cases = json.loads((folder / artifact["path"]).read_text(encoding="utf-8"))
            cases["values"] = {
                metric: [v if v is None or not metric.startswith("dice") else max(0.0, v - less) for v in values]
                for metric, values in cases["values"].items()
            }
            content = json.dumps(cases).encode()
            artifact["sha256"] = hashlib.sha256(content).hexdigest()
            artifact["path"] = f"artifacts/cases-{i}.json"
            (folder / artifact["path"]).write_bytes(content)
    return record


if __name__ == "__main__":
    sys.exit(main())
