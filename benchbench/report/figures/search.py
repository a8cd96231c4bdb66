"""Figures of a search: front, hypervolume over time, importance of parameters, the chosen network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchbench.core.search_result import family_of, is_of_parent
from benchbench.core.units import counted, format_duration, format_value
from benchbench.report.figures import style
from benchbench.report.figures.style import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STAGES = 4
_LINES = ("-", "--", ":")
_ROWS = 14  # choices whose importance is shown
_LEGEND_IN = 0.85  # above the front: inside it would lie on points
_SHARE_OF_BOX = "hypervolume, share of the box"


@style.plain_matplotlib()
def front(search: Mapping[str, Any]) -> Drawing | None:
    """Dice against the cost: every training, and the finalists with their intervals."""
    metric = search["metric"]
    name = metric["name"]
    low = [(t["costs"][name], t["dice"]) for t in search["trials"] if t["dice"] is not None and t["same_as"] is None]
    longer = [(p["costs"][name], p["dice"]) for p in search["promotions"] if not p["error"]]
    finals = [p for p in search["points"] if p["objective"] is not None]
    if not low or not finals:
        return None
    known = search.get("baseline")
    if known and known["dice_test"] and known.get("objective") is not None:
        finals.append({**known, "published": True, "front": False})
    controls = _controls(search)
    members = sorted((p for p in finals if p["front"]), key=lambda p: float(p["objective"]))
    figure, axes = style.axes(4.0 + _LEGEND_IN, head_in=_LEGEND_IN)
    ys = [y for _, y in low + longer] + [end for p in finals for end in p["dice_test"]["ci95"]]
    ys += [y for _, _, y in controls]
    bottom, top = style.around(
        [max(min(ys), sorted(ys)[len(ys) // 5] - 0.05), max(ys)]
    )  # a few failures squeeze no rest
    costs = [x for x, _ in low + longer] + [p["objective"] for p in finals] + [x for _, x, _ in controls]
    style.scale(axes, "x", style.around(costs, log=True), f"{metric['title']}, {metric['unit']} (log)", log=True)
    style.scale(axes, "y", (bottom, top), "Dice")
    style.marks(axes, *_columns(low), "o", 4, style.MUTED, face=style.PAPER, label="proposals, val")
    if longer:
        style.marks(axes, *_columns(longer), "s", 6, style.SERIES[1], face=style.PAPER, label="promotions, val")
    joined = _trained_alike(search, members)
    if joined:
        axes.plot(*_columns([_final(p) for p in members]), color=style.MUTED, linewidth=1.2, linestyle="--")
    for kind, (label, marker) in _CONTROLS.items():
        if places := [(x, y) for of, x, y in controls if of == kind]:
            style.marks(axes, *_columns(places), marker, 8, style.SERIES[3], face=style.PAPER, label=label)
    for published, label, marker, size in (
        (True, f"{family_of(search)['baseline'].removeprefix('the ')}, test", "*", 12),
        (False, "finalists, test", "D", 7),
    ):
        ends = [p for p in finals if p["published"] is published]
        for p in ends:
            axes.plot([p["objective"]] * 2, p["dice_test"]["ci95"], color=style.INK, linewidth=1.2)
        if ends:
            colour = style.SERIES[2 if published else 0]
            style.marks(axes, *_columns([_final(p) for p in ends]), marker, size, colour, label=label)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1.0), ncols=2, fontsize=style.FONT - 1, columnspacing=1.0)
    spoken = "; ".join(
        f"{p['name']}: Dice {p['dice_test']['mean']:.3f}, {format_value(p['objective'], metric['unit'])}"
        for p in members
    )
    caption = (
        "Solid marks are finalists by Dice on the cases kept apart, the line upright their 95 % interval over cases"
        f"{', the dashed line the front, chosen by Dice on val' if joined else ''}. Grey and square marks are shorter "
        f"trainings by Dice on val, their cost timed briefly. Front: {', '.join(p['name'] for p in members)}."
    )
    if controls:
        caption += " Controls were trained as long as the whole search, or for as much computing as their network."
    if not joined:
        caption += " No line joins the front: Dice of the phantom after unequal trainings does not rank networks."
    if below := sum(y < bottom for _, y in low):
        caption += f" Below the lower end of the axis: {counted(below, 'proposal')}."
    label = f"Dice against {metric['title']}. {spoken}."
    return style.drawing(figure, prefix="front", label=label, title="The front", caption=caption)


#: Kind of a control -> its words and mark; one of random proposals has no cost in the record.
_CONTROLS = {
    "scratch": ("the same from scratch, test", "X"),
    "published": ("published, as long, test", "P"),
    "scaled": ("nnU-Net, as fast, test", "^"),
}
_ALIKE = 1.25  # two trainings whose times differ by no more than this factor count as equally long


def _controls(search: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(kind, cost, Dice) of each control whose cost is known."""
    places = {point["name"]: point["objective"] for point in search["points"]}
    metric, known, found = (
        search["metric"]["name"],
        search.get("baseline") or {},
        dict[tuple[str, str, float], tuple[str, float, float]](),
    )
    for row in search.get("comparisons", ()):
        cost = places.get(row["point"])
        if row["kind"] == "published":
            cost = known.get("objective") or known.get("costs", {}).get(metric)
        elif row["kind"] == "scaled":
            timed = metric == "latency_s" and cost is not None and row.get("own_latency_s") and row.get("latency_s")
            cost = cost * row["latency_s"] / row["own_latency_s"] if timed else None
        if row["kind"] in _CONTROLS and cost is not None:
            found[row["kind"], row["name"], float(cost)] = (row["kind"], float(cost), float(row["other_dice"]))
    return list(found.values())


def _trained_alike(search: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a line may join the front: on the phantom only networks that were trained for as long are ranked."""
    seconds = [float(point["train_s"]) for point in members]
    return not search["data"]["semi_synthetic"] or max(seconds, default=0) <= _ALIKE * min(seconds, default=0)


def _final(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["objective"], point["dice_test"]["mean"]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


@style.plain_matplotlib()
def hypervolume(search: Mapping[str, Any], against: str) -> Drawing | None:
    """The share of the reference box that the proposals cover.

    Args:
        search: the search.
        against: `trainings`, or `at_s`, the wall-clock.
    """
    curve = search["hypervolume"]["curve"]
    if len(curve) < 2:
        return None
    words = "trainings paid for" if against == "trainings" else "minutes"
    xs = [point[against] / (1.0 if against == "trainings" else 60.0) for point in curve]
    ys = [point["share"] for point in curve]
    figure, axes = style.axes(2.9)
    style.scale(axes, "x", (0, max(xs) * 1.05), words)
    style.scale(axes, "y", style.around(ys), _SHARE_OF_BOX)
    axes.step(xs, ys, where="post", color=style.SERIES[0], linewidth=1.8)
    end = f"{curve[-1]['share']:.3f} after {curve[-1]['trainings']} trainings and {format_duration(curve[-1]['at_s'])}"
    title = "Hypervolume against trainings" if against == "trainings" else "Hypervolume against time"
    caption = f"What the proposals at the lower fidelity cover of the box to the reference point: {end}."
    return style.drawing(figure, prefix=f"hv{against[0]}", label=f"{title}: {end}.", title=title, caption=caption)


@style.plain_matplotlib()
def worth(search: Mapping[str, Any]) -> Drawing | None:
    """The sampler beside chance and NSGA-II, on a table of configurations that were trained beforehand."""
    told = search.get("worth")
    if not told:
        return None
    strategies = told["strategies"]
    figure, axes = style.axes(3.1)
    ends = [
        value
        for strategy in strategies.values()
        for point in strategy["curve"][len(strategy["curve"]) // 10 :]
        for value in point[2:]
    ]
    style.scale(axes, "x", (0, told["budget_s"] / 60 * 1.02), "minutes of trainings paid for")
    style.scale(axes, "y", style.around(ends), _SHARE_OF_BOX)
    for (name, strategy), colour, line in zip(strategies.items(), style.SERIES, _LINES, strict=False):
        seconds, mean, low, high = zip(*strategy["curve"], strict=True)
        minutes = [value / 60 for value in seconds]
        axes.plot(minutes, mean, color=colour, linewidth=1.8, linestyle=line, label=name)
        for end in (low, high):
            axes.plot(minutes, end, color=colour, linewidth=0.7, linestyle=line)
    axes.legend(loc="lower right", fontsize=style.FONT - 1)
    texts = "; ".join(
        f"{name} {strategy['end']:.4f} ({strategy['ci95'][0]:.4f} to {strategy['ci95'][1]:.4f})"
        for name, strategy in strategies.items()
    )
    ours = next(iter(strategies.values()))
    low, high = ours["faster_ci95"]
    return style.drawing(
        figure,
        prefix="worth",
        label=f"Hypervolume against time. {texts}.",
        title="Beside chance and NSGA-II",
        caption=f"{told['table']} configurations were trained beforehand, {told['feasible']} of them within "
        f"{told['limit']}; each way looks its trainings up there and pays what they took, over {told['seeds']} seeds; "
        f"thin lines are the 95 % interval of the mean. In the end: {texts}. The search reaches what NSGA-II ends with "
        f"{ours['faster_than_nsga2']:.2f} times as fast ({low:.2f} to {high:.2f}).",
    )


@style.plain_matplotlib()
def importance(search: Mapping[str, Any]) -> Drawing | None:
    """How much each choice has to do with Dice."""
    shares = search["importance"].get("shares")
    if not shares:
        return None
    ranked = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [(_spoken(name), value) for name, value in ranked[:_ROWS]]
    figure, axes = style.row_axes([name for name, _ in shown], 0.27, right=0.14)
    style.scale(axes, "x", (0, shown[0][1] * 1.02 or 1.0), "share of what the choices explain of Dice")
    for i, (_, value) in enumerate(shown):
        axes.barh(i, value, height=0.6, **style.MEASURED)
        style.beside(axes, value, i, f"{value:.2f}")
    caption = (
        "By PED-ANOVA over the proposals: which choices set the good ones apart. It does not say in which direction."
    )
    if left := len(ranked) - len(shown):
        caption += f" {left} choices of less weight are left out."
    spoken = "; ".join(f"{name} {value:.2f}" for name, value in shown)
    return style.drawing(figure, prefix="imp", label=f"Importance: {spoken}.", title="What mattered", caption=caption)


def _spoken(name: str) -> str:
    """`width2` as `width, stage 2`; `keep2`, the share that a level of a parent keeps, as `kept of level 2`."""
    if name.removeprefix("keep").isdigit():
        return f"kept of level {name.removeprefix('keep')}"
    return f"{name[:-1]}, stage {name[-1]}" if name[-1].isdigit() else name


@style.plain_matplotlib()
def sketch(search: Mapping[str, Any], point: Mapping[str, Any] | None) -> Drawing | None:
    """The chosen network beside the published one, stage by stage, or what it keeps of its parent by level."""
    if point is None:
        return None
    if is_of_parent(search):
        return _kept_of_the_parent(search, point)
    plain, chosen = search["published_config"], point["config"]
    figure, axes = style.axes(3.6, 0.02, bottom_in=0.1, right=0.02)
    axes.set_axis_off()
    axes.set(xlim=(0, 2.0), ylim=(-4.35, 0.75))
    widest = max(*plain["widths"], *chosen["widths"])
    sides = ((f"published {plain['variant']}", plain, style.MUTED), (point["name"], chosen, style.SERIES[0]))
    for middle, (title, config, colour) in zip((0.5, 1.5), sides, strict=True):
        _text(axes, middle, 0.45, style.clip(title, 28), style.INK)
        for stage in range(_STAGES):
            width = 0.86 * config["widths"][stage] / widest
            for block in range(config["depths"][stage]):
                axes.barh(-stage - 0.12 * block, width, left=middle - width / 2, height=0.1, color=colour)
            _text(axes, middle, -stage - 0.52, _stage_text(config, stage), style.MUTED)
        pruned = f", {config['prune']:.0%} pruned by {config['criterion']}" if config["prune"] else ""
        _text(axes, middle, -4.15, f"stem 1/{config['stem']}{pruned}", style.MUTED)
    spoken = "; ".join(
        f"stage {stage + 1}: {_stage_text(plain, stage)} became {_stage_text(chosen, stage)}"
        for stage in range(_STAGES)
    )
    return style.drawing(
        figure,
        prefix="arch",
        label=f"Architectures. {spoken}.",
        title="The chosen network beside the published one",
        caption="Encoder and decoder have the same blocks at each stage, the first on top. A bar is a block, as wide "
        "as its channels; below it channels, width and heads of the attention, its sampling stride, expansion of the "
        "MLPs.",
    )


def _kept_of_the_parent(search: Mapping[str, Any], point: Mapping[str, Any]) -> Drawing:
    """The share of the parent's channels that a network keeps of each level."""
    levels, keep = search["space"]["choices"]["levels"], point["config"]["keep"]
    names = [f"{level['voxels']:,} voxels" for level in levels]
    figure, axes = style.row_axes(names, 0.4, right=0.2)
    style.scale(axes, "x", (0, 1.0), "share of its channels that stays")
    texts = []
    for row, (level, share) in enumerate(zip(levels, keep, strict=True)):
        axes.barh(row, 1.0, height=0.6, color=style.GRID)
        axes.barh(row, share, height=0.6, **style.MEASURED)
        texts.append(f"{share:.0%} of {level['channels']}")
        axes.text(1.03, row, texts[-1], va="center", color=style.INK, fontsize=style.FONT - 1.5)
    spoken = "; ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))
    return style.drawing(
        figure,
        prefix="kept",
        label=f"Kept of the parent. {spoken}.",
        title=f"What {point['name']} keeps of the parent",
        caption="A level is all layers whose maps have equally many voxels, the finest on top; each of its layers "
        f"keeps that share of its channels, the most important by {point['config']['criterion']}.",
    )


def _stage_text(config: Mapping[str, Any], stage: int) -> str:
    return (
        f"{config['widths'][stage]} ch, att. {config['attention'][stage]}/{config['heads'][stage]}, "
        f"r {config['sampling'][stage]}, ×{config['expansion'][stage]}"
    )


def _text(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=style.FONT - 1.5)
