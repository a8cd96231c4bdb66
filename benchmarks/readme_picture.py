"""Draw the picture of the README from the committed records: `python benchmarks/readme_picture.py [FILE]`.

Dice against the time of one patient, with both 95 % intervals, of networks that were trained alike on the hippocampus.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchbench.core.results import latest, read_records
from benchbench.core.statistics import pareto_front
from benchbench.core.units import format_value
from benchbench.zoo import cards

ROOT = Path(__file__).resolve().parents[1]
RECORDS = [ROOT / "results" / "reference" / name for name in ("hippocampus", "hippocampus-earlier")]
PICTURE = ROOT / "docs" / "images" / "hippocampus.png"
INK, MUTED, ACCENT, PAPER = "#1c2733", "#6b7683", "#1f6feb", "#ffffff"
#: Name -> where its label stands: offset in points, and the side of the mark that it is written on.
PLACES = {
    "slim_unetr": ((10, -16), "left"),
    "slim_unetr_s2": ((-10, 3), "right"),
    "slim_unetr_fixed": ((-10, 3), "right"),
    "nnunet_small": ((-8, 9), "right"),
    "nnunet": ((10, 4), "left"),
    "unetr": ((10, -4), "left"),
    "swin_unetr": ((-10, 6), "right"),
}


def main(picture: Path) -> None:
    records = latest(record for folder in RECORDS for record in read_records(folder))
    points = [(r.get("volume_latency_s"), r.get("dice"), r) for r in records]
    front = {points[i][2].id for i in pareto_front([(time.value, -dice.value) for time, dice, _ in points])}
    figure = Figure(figsize=(7.2, 3.7), dpi=120, facecolor=PAPER)
    axes = figure.add_axes((0.09, 0.15, 0.88, 0.72))
    line = sorted((time.value, dice.value) for time, dice, r in points if r.id in front)
    axes.plot([x for x, _ in line], [y for _, y in line], color=ACCENT, linewidth=1.3, linestyle="--", zorder=1)
    for time, dice, record in points:
        x, y, colour = time.value, dice.value, ACCENT if record.id in front else MUTED
        spread = [[y - dice.ci95[0]], [dice.ci95[1] - y]]
        width = [[max(0.0, x - time.ci95[0])], [max(0.0, time.ci95[1] - x)]] if time.ci95 else None
        axes.errorbar(x, y, yerr=spread, xerr=width, fmt="o", color=colour, markersize=6, linewidth=0.9, alpha=0.9)
        offset, side = PLACES[record.model.name]
        name = f"{cards.get_card(record.model.name).title}\n{y:.3f}, {format_value(x, 's')}"
        axes.annotate(
            name, (x, y), offset, textcoords="offset points", ha=side, color=INK, fontsize=8.5, linespacing=1.1
        )
    axes.set(xscale="log", xlim=(0.004, 6), ylim=(0.79, 0.9))
    axes.xaxis.set_major_locator(FixedLocator([0.01, 0.03, 0.1, 0.3, 1, 3]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, "s")))
    axes.set_xlabel("one patient, two cores of an AMD EPYC (log)", color=MUTED, fontsize=9)
    axes.set_ylabel("Dice, 44 unseen patients", color=MUTED, fontsize=9)
    axes.tick_params(colors=MUTED, labelsize=8.5)
    axes.grid(color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    title = "Hippocampus, 20 minutes of training each: up and left is better"
    figure.text(0.09, 0.92, title, color=INK, fontsize=10.5, weight="bold")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, metadata={"Software": None})
    print(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PICTURE)
