"""Figures of a search: front, hypervolume over time, importance of parameters, the chosen network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchbench.core.units import format_duration, format_value
from benchbench.report.figures import style as figures_style
from benchbench.report.figures import svg
from benchbench.report.figures.overview import Drawing

_STAGES = 4
_LINES = ("-", "--", ":")
_ROWS = 14  # choices whose importance is shown


def front(found: Mapping[str, Any]) -> Drawing | None:
    """Dice against the cost: every training, and the finalists with their intervals."""
    metric = found["metric"]
    name = metric["name"]
    low = [(t["costs"][name], t["dice"]) for t in found["trials"] if t["dice"] is not None and t["same_as"] is None]
    longer = [(p["costs"][name], p["dice"]) for p in found["promotions"] if not p["error"]]
    finals = [p for p in found["points"] if p["objective"] is not None]
    if not low or not finals:
        return None
    members = sorted((p for p in finals if p["front"]), key=lambda p: float(p["objective"]))
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.axes(4.0, 0.15)
        axes.set_xscale("log")
        ends = [p["dice_test"]["ci95"][side] for p in finals for side in (0, 1)]
        ys = [y for _, y in low + longer] + ends
        bottom = max(min(ys), sorted(ys)[len(ys) // 5] - 0.05)  # a few that failed would squeeze the rest
        figures_style.limits(axes.set_xlim, [x for x, _ in low + longer] + [p["objective"] for p in finals], log=True)
        figures_style.limits(axes.set_ylim, [bottom, max(ys)], log=False)
        axes.grid(True, color=svg.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.minorticks_off()
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=True)
        figures_style.label_ticks(axes.yaxis, axes.get_ylim(), log=False)
        axes.set_xlabel(f"{metric['title']}, {metric['unit']} (log)")
        axes.set_ylabel("Dice")
        plain: dict[str, Any] = {"linestyle": "none", "markerfacecolor": svg.PAPER}
        axes.plot(*_columns(low), marker="o", markersize=4, markeredgecolor=svg.MUTED, label="proposals, val", **plain)
        if longer:
            axes.plot(
                *_columns(longer),
                marker="s",
                markersize=6,
                markeredgecolor=svg.SERIES[1],
                label="promotions, val",
                **plain,
            )
        xs, ys = [p["objective"] for p in members], [p["dice_test"]["mean"] for p in members]
        axes.plot(xs, ys, color=svg.MUTED, linewidth=1.2, linestyle="--")
        for kind, label, marker in ((True, "published network, test", "*"), (False, "finalists, test", "D")):
            own = [p for p in finals if p["published"] is kind]
            for p in own:
                a, b = p["dice_test"]["ci95"]
                axes.plot([p["objective"]] * 2, [a, b], color=svg.INK, linewidth=1.2)
            if own:
                axes.plot(
                    [p["objective"] for p in own],
                    [p["dice_test"]["mean"] for p in own],
                    marker=marker,
                    markersize=12 if kind else 7,
                    markeredgecolor=svg.SERIES[2] if kind else svg.SERIES[0],
                    markerfacecolor=svg.SERIES[2] if kind else svg.SERIES[0],
                    linestyle="none",
                    label=label,
                )
        axes.legend(loc="lower right", frameon=False, fontsize=figures_style.FONT - 1)
        picture = figures_style.save(figure)
    spoken = "; ".join(
        f"{p['name']}: Dice {p['dice_test']['mean']:.3f}, {format_value(p['objective'], metric['unit'])}"
        for p in members
    )
    below = sum(y < axes.get_ylim()[0] for _, y in low)
    caption = (
        "Solid marks are finalists by Dice on the cases kept apart, the line upright their 95 % interval over cases, "
        "the dashed line the front, chosen by Dice on val. Hollow marks are shorter trainings by Dice on val, their "
        f"cost in passing. Front: {', '.join(p['name'] for p in members)}."
    )
    caption += f" {below} proposals lie below the picture." if below else ""
    return Drawing(
        svg=svg.inline(picture, prefix="front", label=f"Dice against {metric['title']}. {spoken}."),
        title="The front",
        caption=caption,
    )


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def hypervolume(found: Mapping[str, Any], against: str) -> Drawing | None:
    """The share of the reference box that the proposals cover.

    Args:
        found: the search.
        against: `trainings`, or `at_s`, the wall-clock with the parent's training.
    """
    curve = found["hypervolume"]["curve"]
    if len(curve) < 2:
        return None
    words = "trainings paid for" if against == "trainings" else "minutes, the parent's training included"
    scale = 1.0 if against == "trainings" else 60.0
    xs = [one[against] / scale for one in curve]
    ys = [one["share"] for one in curve]
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.axes(2.9, 0.15)
        axes.set_xlim(0, max(xs) * 1.05)
        figures_style.limits(axes.set_ylim, ys, log=False)
        axes.grid(True, color=svg.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=False)
        figures_style.label_ticks(axes.yaxis, axes.get_ylim(), log=False)
        axes.set_xlabel(words)
        axes.set_ylabel("hypervolume, share of the box")
        axes.step(xs, ys, where="post", color=svg.SERIES[0], linewidth=1.8)
        picture = figures_style.save(figure)
    end = f"{curve[-1]['share']:.3f} after {curve[-1]['trainings']} trainings and {format_duration(curve[-1]['at_s'])}"
    title = "Hypervolume against trainings" if against == "trainings" else "Hypervolume against time"
    caption = f"What the proposals at the lower fidelity cover of the box to the reference point: {end}."
    return Drawing(
        svg=svg.inline(picture, prefix=f"hv{against[0]}", label=f"{title}: {end}."), title=title, caption=caption
    )


def worth(found: Mapping[str, Any]) -> Drawing | None:
    """The sampler beside chance and NSGA-II, on a table of configurations that were trained beforehand."""
    told = found.get("worth")
    if not told:
        return None
    names = list(told["strategies"])
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.axes(3.1, 0.15)
        curves = {name: told["strategies"][name]["curve"] for name in names}
        axes.set_xlim(0, told["budget_s"] / 60 * 1.02)
        ends = [value for curve in curves.values() for point in curve[len(curve) // 10 :] for value in point[2:]]
        figures_style.limits(axes.set_ylim, ends, log=False)
        axes.grid(True, color=svg.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=False)
        figures_style.label_ticks(axes.yaxis, axes.get_ylim(), log=False)
        axes.set_xlabel("minutes of trainings paid for")
        axes.set_ylabel("hypervolume, share of the box")
        for number, name in enumerate(names):
            xs = [point[0] / 60 for point in curves[name]]
            colour = svg.SERIES[number]
            axes.plot(
                xs,
                [point[1] for point in curves[name]],
                color=colour,
                linewidth=1.8,
                linestyle=_LINES[number],
                label=name,
            )
            for side in (2, 3):
                axes.plot(
                    xs, [point[side] for point in curves[name]], color=colour, linewidth=0.7, linestyle=_LINES[number]
                )
        axes.legend(loc="lower right", frameon=False, fontsize=figures_style.FONT - 1)
        picture = figures_style.save(figure)
    texts = []
    for name in names:
        own = told["strategies"][name]
        low, high = own["ci95"]
        texts.append(f"{name} {own['end']:.4f} ({low:.4f} to {high:.4f})")
    ours = told["strategies"][names[0]]
    low, high = ours["faster_ci95"]
    caption = (
        f"{told['table']} configurations were trained beforehand, {told['feasible']} of them within {told['limit']}; "
        f"each way looks its trainings up there and pays what they took, over {told['seeds']} seeds; thin lines are "
        f"the 95 % interval of the mean. In the end: {'; '.join(texts)}. The search reaches what NSGA-II ends with "
        f"{ours['faster_than_nsga2']:.2f} times as fast ({low:.2f} to {high:.2f})."
    )
    label = f"Hypervolume against time. {'; '.join(texts)}."
    title = "Beside chance and NSGA-II"
    return Drawing(svg=svg.inline(picture, prefix="worth", label=label), title=title, caption=caption)


def importance(found: Mapping[str, Any]) -> Drawing | None:
    """How much each choice has to do with Dice."""
    shares = found["importance"].get("shares")
    if not shares:
        return None
    ranked = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ranked[:_ROWS]
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.row_axes([_spoken(name) for name, _ in shown], 0.27, right=0.14)
        axes.set_xlim(0, max(value for _, value in shown) * 1.02 or 1.0)
        figures_style.label_ticks(axes.xaxis, axes.get_xlim(), log=False)
        axes.set_xlabel("share of what the choices explain of Dice")
        for i, (_, value) in enumerate(shown):
            axes.barh(i, value, height=0.6, facecolor=svg.SERIES[0], edgecolor=svg.SERIES[0], linewidth=1.0)
            figures_style.beside(axes, value, i, f"{value:.2f}")
        picture = figures_style.save(figure)
    left = len(ranked) - len(shown)
    caption = "By PED-ANOVA over the proposals: which choices set the good ones apart. It says nothing of direction."
    caption += f" {left} choices of less weight are left out." if left else ""
    spoken = "; ".join(f"{_spoken(name)} {value:.2f}" for name, value in shown)
    return Drawing(
        svg=svg.inline(picture, prefix="imp", label=f"Importance: {spoken}."), title="What mattered", caption=caption
    )


def _spoken(name: str) -> str:
    """`width2` as `width, stage 2`."""
    return f"{name[:-1]}, stage {name[-1]}" if name[-1].isdigit() else name


def sketches(found: Mapping[str, Any], point: Mapping[str, Any] | None) -> list[Drawing]:
    """The chosen network beside the published one, stage by stage."""
    if point is None:
        return []
    plain = found["published_config"]
    drawn = []
    with figures_style.plain_matplotlib():
        figure, axes = figures_style.axes(3.6, 0.02, bottom_in=0.1, right=0.02)
        axes.set_axis_off()
        axes.set_xlim(0, 2.0)
        axes.set_ylim(-4.35, 0.75)
        widest = max(max(plain["widths"]), max(point["config"]["widths"]))
        for side, (title, config, colour) in enumerate(
            ((f"published {plain['variant']}", plain, svg.MUTED), (point["name"], point["config"], svg.SERIES[0]))
        ):
            middle = 0.5 + side
            _text(axes, middle, 0.45, figures_style.clip(title, 28), svg.INK)
            for stage in range(_STAGES):
                width = 0.86 * config["widths"][stage] / widest
                for block in range(config["depths"][stage]):
                    axes.barh(
                        -stage - 0.12 * block,
                        width,
                        left=middle - width / 2,
                        height=0.1,
                        facecolor=colour,
                        edgecolor=colour,
                        linewidth=0.8,
                    )
                _text(axes, middle, -stage - 0.52, _stage_text(config, stage), svg.MUTED)
            more = [f"stem 1/{config['stem']}"]
            more += [f"{config['prune']:.0%} pruned by {config['criterion']}"] if config["prune"] else []
            _text(axes, middle, -4.15, ", ".join(more), svg.MUTED)
        picture = figures_style.save(figure)
    spoken = "; ".join(
        f"stage {stage + 1}: {_stage_text(plain, stage)} became {_stage_text(point['config'], stage)}"
        for stage in range(_STAGES)
    )
    caption = (
        "Encoder and decoder have the same blocks at each stage, the first on top. A bar is a block, as wide as its "
        "channels; below it channels, width and heads of the attention, its sampling stride, expansion of the MLPs."
    )
    drawn.append(
        Drawing(
            svg=svg.inline(picture, prefix="arch", label=f"Architectures. {spoken}."),
            title="The chosen network beside the published one",
            caption=caption,
        )
    )
    return drawn


def _stage_text(config: Mapping[str, Any], stage: int) -> str:
    return (
        f"{config['widths'][stage]} ch, att. {config['attention'][stage]}/{config['heads'][stage]}, "
        f"r {config['sampling'][stage]}, ×{config['expansion'][stage]}"
    )


def _text(axes: Any, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(
        text,
        (x, y),
        ha="center",
        va="center",
        parse_math=False,
        color=colour,
        fontsize=figures_style.FONT - 1.5,
        annotation_clip=False,
    )
