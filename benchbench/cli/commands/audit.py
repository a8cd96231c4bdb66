"""`bench audit`: MACs and parameters of networks by each counter, and where and why counters differ.

Every table of MACs says that twice its numbers are FLOPs, because papers print MACs under "GFLOPs".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchbench import report
from benchbench.cli.next_step import next_line
from benchbench.cli.output import write_page
from benchbench.cli.parser import add_shared
from benchbench.cli.progress import is_shown
from benchbench.core import arguments as to
from benchbench.core.audit_result import TITLES, Counted
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK
from benchbench.core.units import format_shape, gmac, signed_gmac
from benchbench.report import writers
from benchbench.runner import audit as runner_audit
from benchbench.runner.audit import AuditOutcome

GMAC = "GMAC (2x = GFLOP)"

Row = dict[str, Any]

_PLACE = "results/local/audit"


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_shared(sub, "--models", "--in-channels", "--out-channels", "--trust")
    sub.add_argument(
        "--input",
        nargs=5,
        type=to.positive,
        metavar=("B", "C", "D", "H", "W"),
        help="shape of the input (default: batch 1, with the channels and size in the card)",
    )
    sub.add_argument("--by-operator", action="store_true", help="show which operators each counter gets wrong, and why")
    sub.add_argument(
        "--operators",
        action="store_true",
        help="show how far each counter is off on single operators that were counted by hand, and no network",
    )
    sub.add_argument(
        "--full",
        action="store_true",
        help="run the other counters on real tensors at full size, which takes time and memory",
    )
    add_shared(sub, "--out", help="folder to write a record of each network and a report to (default: none)")
    add_shared(sub, "--format", choices=("table", "json", "csv", "markdown", "latex"))
    add_shared(sub, "--config")


def run(options: argparse.Namespace) -> int:
    """Audit networks, or show the counters on operators counted by hand."""
    if options.operators:
        print(writers.write(operators(), options.format))
        return EXIT_OK
    if options.out:
        report.check_page(options.out)
    shown = is_shown(options) and (sys.stderr.isatty() or options.verbose)  # it takes seconds
    rows = runner_audit.run(
        options.models,
        shape=options.input,
        in_channels=options.in_channels,
        out_channels=options.out_channels,
        full=options.full,
        trust=options.trust,
        out=options.out,
        tell=lambda text: print(text, file=sys.stderr, flush=True) if shown else None,
    )
    if options.format == "json":
        print(writers.to_json([runner_audit.to_json(row) for row in rows]))
    elif options.by_operator:
        print(writers.write(by_operator(rows), options.format))
    elif options.format == "csv":
        print(writers.write(plain(rows), "csv"))
    else:
        print(writers.write(macs(rows), options.format), end="\n\n")
        print(writers.write(params(rows), options.format))
    if options.format == "table":
        print("\n" + "\n".join([*verdicts(rows), "", *how(rows)]))
        if options.out:
            print(f"records: {options.out / 'records.jsonl'}")
    if options.out:
        page, fault = write_page(options.out)
        if fault:
            raise fault
        if options.format == "table":
            print(f"report: {page}")
    if options.format == "table":
        step = ("report", options.out, "--format", "latex") if options.out else (*options.words, "--out", _PLACE)
        print(f"\n{next_line('for tables to paste' if options.out else 'to keep it, with a page', *step)}")
    return EXIT_OK if all(row.counted for row in rows) else EXIT_INCOMPLETE


def macs(rows: Sequence[AuditOutcome]) -> list[Row]:
    """One line a network: its MACs by every counter, with how many times the truth that is."""
    lines = []
    for row in rows:
        counted = _counted(row)
        line: Row = {"network": row.card.name, "input": format_shape(row.job.input_shape)}
        for name, title in TITLES.items():
            c = counted.get(name)
            least = "at least " if c and c.uncounted else ""
            line[f"{title} {GMAC}" if name == "torch" else title] = least + _macs(c.macs, c.factor) if c else "-"
        p = row.result.published if row.result else None
        line["published"] = gmac(p.macs) if p and p.macs is not None else "-"
        line["which is"] = _which(p.macs, p.macs_counter) if p else "-"
        lines.append(line)
    return lines


def params(rows: Sequence[AuditOutcome]) -> list[Row]:
    """One line a network: its parameters by every counter, and what some of them leave out."""
    lines = []
    for row in rows:
        counted = _counted(row)
        line: Row = {"network": row.card.name}
        for name, title in TITLES.items():
            if name != "thop_fixed":  # it counts parameters as thop does
                c = counted.get(name)
                line[f"{title} params" if name == "torch" else title] = "-" if c is None else _whole(c.params)
        r = row.result
        line["with buffers"] = _whole(r.params.all + r.params.buffers) if r else "-"
        line["bare"] = _whole(r.params.bare) if r else "-"
        line["unused"] = _whole(r.params.unused) if r and r.params.unused is not None else "-"
        line["shared modules"] = str(len(r.params.shared_modules)) if r else "-"
        line["published M"] = f"{r.published.params / 1e6:,.2f}" if r and r.published.params is not None else "-"
        lines.append(line)
    return lines


def by_operator(rows: Sequence[AuditOutcome]) -> list[Row]:
    """One line for each operator that the headline does not count, and one a kind that a counter gets wrong."""
    keys = (
        *("network", "counter", "kind", "operator", "modules", f"counted {GMAC}"),
        *("true", "difference", "factor", "why"),
    )
    why = "there is no rule for it; torch.utils.flop_counter.register_flop_formula gives it one"
    lines: list[tuple[str, ...]] = []
    for row in rows:
        for c in _counted(row).values():
            start = (row.card.name, TITLES["torch"], "not counted")
            lines += [(*start, operator, "-", "-", "not known", "-", "-", why) for operator in c.uncounted]
    for row in rows:
        for d in row.result.differences if row.result else ():
            factor = f"{d.counted / d.true:.2f}x" if d.true else "-"
            start = (row.card.name, TITLES[d.counter], d.kind)
            numbers = (str(d.modules), gmac(d.counted), gmac(d.true), signed_gmac(d.excess), factor)
            lines.append((*start, d.operator, *numbers, d.why))
    return [dict(zip(keys, line, strict=True)) for line in lines]


def plain(rows: Sequence[AuditOutcome]) -> list[Row]:
    """One line a network and counter, with unrounded numbers."""
    lines = []
    for row in rows:
        start = {"network": row.card.name, "input": format_shape(row.job.input_shape)}
        verdict = row.result.verdict if row.result else ""
        if not _counted(row):
            blank = dict.fromkeys(("version", "macs", "factor", "params"), "")
            rest = {"reason": row.error or "", "how": "", "not_counted": "", "verdict": verdict}
            lines.append({**start, "counter": "torch", **blank, **rest})
        for c in _counted(row).values():
            numbers = {key: "" if (n := getattr(c, key)) is None else repr(n) for key in ("macs", "factor", "params")}
            texts = {"reason": c.reason or "", "how": c.how, "not_counted": " ".join(c.uncounted), "verdict": verdict}
            lines.append({**start, "counter": c.counter, "version": c.version or "", **numbers, **texts})
    return lines


def verdicts(rows: Sequence[AuditOutcome]) -> list[str]:
    """One line a network, and one for each figure of a paper and each counter without a count."""
    lines = []
    for row in rows:
        name = row.card.name
        if row.result is None:
            lines.append(f"{name}: no headline: {row.error}")
            continue
        lines.append(f"{name}: {row.result.verdict}")
        p = row.result.published
        if p.macs is not None:
            lines.append(f"  published {gmac(p.macs)} G: {p.macs_why}")
        if p.params is not None:
            lines.append(f"  published {p.params / 1e6:,.2f} M: {p.params_why}")
        if row.counted:
            lines += [f"  {TITLES[c.counter]}: {c.reason}" for c in row.result.counters[1:] if c.macs is None]
        if not row.weightless:
            lines.append("  its weights were allocated, since it cannot be built without them")
    return lines


def how(rows: Sequence[AuditOutcome]) -> list[str]:
    """How each counter's numbers were obtained, once."""
    counters = dict.fromkeys((c.counter, c.version, c.how) for row in rows for c in _counted(row).values() if c.how)
    return [f"{TITLES[counter]} {version or '(not installed)'}: {text}" for counter, version, text in counters]


def operators() -> list[Row]:
    """One line a golden operator: its MACs by hand, and each counter's factor on it. Loads torch."""
    from benchbench.measure.flops import reference_operators

    lines = []
    for operator in reference_operators.OPERATORS:
        line: Row = {
            "operator": operator.name,
            "input": format_shape(operator.shape),
            "MAC by hand": str(operator.macs),
        }
        for name, count in reference_operators.check(operator).items():
            if count.macs is None:
                line[TITLES[name]] = str(count.reason)
            elif operator.macs:
                line[TITLES[name]] = _times(count.factor or 0.0)
            else:
                line[TITLES[name]] = f"{count.factor:g} per element" if count.macs else "0"
        lines.append(line)
    return lines


def _counted(row: AuditOutcome) -> dict[str, Counted]:
    return row.result.counts if row.result else {}


def _macs(macs: int | None, factor: float | None) -> str:
    if macs is None:
        return "-"
    return gmac(macs) if factor is None or factor == 1 else f"{gmac(macs)} ({_times(factor)})"


def _times(factor: float) -> str:
    """`4.92x`; more digits where two would hide that it is not 1."""
    short = f"{factor:.2f}x"
    return short if short != "1.00x" or factor == 1 else f"{factor:.4f}x"


def _which(macs: float | None, counter: str | None) -> str:
    if macs is None:
        return "-"
    return f"{TITLES[counter]}'s" if counter else "nobody's"


def _whole(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"
