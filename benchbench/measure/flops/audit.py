"""Audit of FLOP counters: every counter's FLOPs and parameters side by side, with the reason for each difference.

    print(benchbench.audit(MyNet(), torch.empty(1, 4, 128, 128, 128)))

Nothing is computed: all counters run on tensors without memory. Two faults can cancel (transposed convolutions too
high, attention not counted), so a counter may look right and be wrong twice; the differences therefore stand beside
the totals. Importing this file loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchbench.core.audit_result import TITLES, AuditResult, Counted, Difference, Params, PublishedCount
from benchbench.core.errors import BenchError, named_line
from benchbench.core.units import gmac, signed_gmac
from benchbench.measure.flops.first_layer import channels_refused

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchbench.measure.flops.counters import Tally

CLOSE = 0.01  # relative distance up to which a counter reproduces a figure


def audit(
    module: nn.Module,
    example_input: Tensor | Sequence[int],
    *,
    name: str | None = None,
    published: Mapping[str, float] | None = None,
    full: bool = False,
    make: Callable[[], nn.Module] | None = None,
) -> AuditResult:
    """Count a network by every counter and compare each with the headline.

    Args:
        module: left as it is; each counter gets a copy without memory, in eval mode.
        example_input: (B, C, D, H, W), or its shape alone.
        name: of the network in the result; its class's by default.
        published: `macs` and `params` of a paper, to find the counter that they come from.
        full: let the other counters run the network on real tensors, which takes its time and memory.
        make: builds the network with values, for one that has none and can only be counted by running it.

    Returns:
        The result. A counter that fails, the headline included, has a reason in place of its counts.
    """
    import torch

    from benchbench.measure.flops import counters
    from benchbench.measure.flops import differences as flops_differences
    from benchbench.measure.flops.graph import materialised
    from benchbench.measure.flops.meta_device import copied, without_memory

    shape = tuple(example_input.shape if isinstance(example_input, torch.Tensor) else example_input)
    module = materialised(module, shape, make)
    ghost = without_memory(module, "meta")
    x = torch.empty(shape, device="meta")
    facts = None
    try:
        headline, facts = counters.count_torch(ghost, x)
    except Exception:  # a network may raise anything without values
        headline = _anyhow(module, ghost, shape, make)
    other, value = ghost, x
    if full:
        other, value = copied(module).eval(), torch.zeros(shape)
        if any(p.is_meta for p in [*other.parameters(), *other.buffers()]):
            other.to_empty(device="cpu")
    tallies = [headline, *(counters.count(counter, other, value) for counter in counters.COUNTERS[1:])]
    rows = [
        row
        for tally in tallies[1:]
        if facts is not None and tally.macs is not None
        for row in flops_differences.differences(headline, facts, tally)
    ]
    counted = tuple(tally.counted(headline.macs) for tally in tallies)
    sizes = {n: p.numel() for n, p in ghost.named_parameters()}
    params = Params(
        all=sum(sizes.values()),
        buffers=sum(b.numel() for b in ghost.buffers()),
        bare=_bare(ghost),
        shared_modules=_shared(ghost),
        unused=None if facts is None else sum(n for key, n in sizes.items() if key not in facts.used),
    )
    why_params = {t.counter: flops_differences.parameters(ghost, t, facts) for t in tallies}
    return AuditResult(
        model=name or type(module).__name__,
        input=shape,
        params=params,
        counters=counted,
        differences=tuple(rows),
        published=explain_published(published or {}, counted, rows, params, why_params),
        verdict=verdict(counted, rows),
    )


def _anyhow(module: nn.Module, ghost: nn.Module, shape: Sequence[int], make: Callable[[], nn.Module] | None) -> Tally:
    """The headline of a network that does not run on `meta`, or why there is none."""
    import torch

    from benchbench.measure.flops.counters import Tally
    from benchbench.measure.flops.graph import measure_cost

    version = str(torch.__version__)
    try:
        cost = measure_cost(module, shape, make=make)
    except Exception as error:  # a network may raise anything; it becomes the headline's cell
        cause = channels_refused(module, shape) or error
        why = str(cause) if isinstance(cause, BenchError) else named_line(cause)
        params = sum(p.numel() for p in ghost.parameters())
        return Tally(counter="torch", version=version, params=params, reason=why)
    return Tally(
        counter="torch",
        version=version,
        macs=cost.macs,
        params=cost.params,
        how=cost.how,
        uncounted=cost.uncounted,
    )


def _bare(module: nn.Module) -> int:
    sizes: dict[int, int] = {}
    for part in module.modules():
        if not type(part).__module__.startswith("torch.nn."):
            sizes |= {id(p): p.numel() for p in part.parameters(recurse=False)}
    return sum(sizes.values())


def _shared(module: nn.Module) -> tuple[str, ...]:
    """Modules with parameters that several paths lead to, without those inside another one of them."""
    paths: dict[int, list[str]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        paths.setdefault(id(part), []).append(name)
    parts = {id(part): part for part in module.modules()}
    shared = {i for i, names in paths.items() if len(names) > 1 and next(parts[i].parameters(), None) is not None}
    inside = {id(below) for i in shared for below in parts[i].modules() if below is not parts[i]}
    return tuple(names[0] for i, names in paths.items() if i in shared - inside)


def verdict(counted: Sequence[Counted], rows: Sequence[Difference]) -> str:
    """One line: which counters are off, by how much, and through what."""
    if counted[0].macs is None:
        return f"no headline: {counted[0].reason}"
    names_of: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    for c in counted[1:]:
        if c.factor is None or abs(c.factor - 1) <= CLOSE or c.counter == "thop_fixed":  # nobody's tables are made so
            continue
        causes = main_causes([d for d in rows if d.counter == c.counter])
        text = _off(c.factor) + ": " * bool(causes) + ", ".join(f"{kind}, {signed_gmac(n)}" for kind, n in causes)
        names_of.setdefault((_off(c.factor), *(kind for kind, _ in causes)), (text, []))[1].append(TITLES[c.counter])
    left_out = counted[0].uncounted
    silent = [TITLES[c.counter] for c in counted[1:] if c.macs is None]
    parts = [f"{_listed(names)} {text}" for text, names in names_of.values()]
    if left_out:
        what = f"PyTorch's count is a lower bound: not counted: {', '.join(left_out)}, for which there is no rule"
        parts = [what, *(f"beside it, {part}" for part in parts)]
    elif not parts:
        parts = ["every counter within 1 %" if not silent else "every other counter within 1 %"]
    if silent:
        parts.append(f"no count from {', '.join(silent)}")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _off(factor: float) -> str:
    if not factor:
        return "counts nothing"
    if factor >= 1.95:
        return f"{factor:.1f}x too high"
    return f"{abs(factor - 1):.0%} too {'high' if factor > 1 else 'low'}".replace("%", " %")


def main_causes(rows: Sequence[Difference]) -> list[tuple[str, int]]:
    """The kinds that matter, in words and MACs, largest first: `("attention not counted", -4831838208)`."""
    sums: dict[str, int] = {}
    missed: dict[str, bool] = {}
    for row in rows:
        sums[row.kind] = sums.get(row.kind, 0) + row.excess
        missed[row.kind] = missed.get(row.kind, True) and row.counted == 0
    ordered = sorted(sums.items(), key=lambda item: -abs(item[1]))
    largest = abs(ordered[0][1]) if ordered else 0
    return [(f"{k}{' not counted' if missed[k] else ''}", n) for k, n in ordered if abs(n) >= largest / 10]


def explain_published(
    published: Mapping[str, float],
    counted: Sequence[Counted],
    rows: Sequence[Difference],
    params: Params,
    why_params: Mapping[str, str],
) -> PublishedCount:
    """Which counter gives the published figures, and what that says of them."""
    macs, size = published.get("macs"), published.get("params")
    by_name = {c.counter: c for c in counted}
    macs_counter, macs_why = None, ""
    if macs:
        options = {c: n for c in _LIKELY for n in [by_name[c].macs] if n}
        macs_counter, text = _closest(macs, options, 1e9, "G", tie=0.0025)
        causes = main_causes([d for d in rows if d.counter == macs_counter])
        macs_why = "; ".join([text, *(f"{kind}, {signed_gmac(n)}" for kind, n in causes)])
        if counted[0].macs and macs_counter != "torch":
            macs_why += f"; true {'at least ' if counted[0].uncounted else ''}{gmac(counted[0].macs)} G"
        elif counted[0].uncounted:
            macs_why = macs_why.replace("the true count", "PyTorch's count, a lower bound")
    params_counter, params_why = None, ""
    if size:
        options = {c: n for c in _LIKELY for n in [by_name[c].params] if n}
        params_counter, text = _closest(size, options | {"buffers": params.all + params.buffers}, 1e6, "M", tie=0.0005)
        more = why_params.get(params_counter or "", "")
        if params_counter == "buffers":
            more, params_counter = f"{params.buffers:,} buffer elements beside {params.all:,} parameters", None
        params_why = f"{text}: {more}" if more else text
        if params_counter != "torch":
            params_why += f"; true {params.all / 1e6:,.2f} M"
    return PublishedCount(
        macs=macs, params=size, macs_counter=macs_counter, params_counter=params_counter,
        macs_why=macs_why, params_why=params_why,
    )  # fmt: skip


#: Of two that give a figure equally well, the truth comes first, then the counter that most tables are made with.
_LIKELY = ("torch", "thop", "fvcore", "torch_pruning", "thop_fixed")


def _closest(
    figure: float, options: Mapping[str, int], scale: float, unit: str, *, tie: float
) -> tuple[str | None, str]:
    """The option that a printed figure comes from, if any, and that in words.

    It is the first one that rounds to what was printed, with as many decimals as the figure's shortest
    text has. Else it is the nearest one within `CLOSE`; of several that are so near but for `tie`, the
    first. The state dict's size is an option only where it rounds to the figure.
    """
    if not options:
        return None, "no counter has a count"
    printed = figure / scale
    decimals = len(f"{printed:.6f}".rstrip("0").partition(".")[2])
    exact = [name for name, n in options.items() if round(n / scale, decimals) == round(printed, decimals)]
    off = {name: n / figure - 1 for name, n in options.items() if name != "buffers"}
    least = min(map(abs, off.values()), default=0.0)
    name = exact[0] if exact else next(n for n in off if abs(off[n]) <= least + tie)
    share = f"{options[name] / figure - 1:+.2%}".replace("-0.00", "+0.00").replace("%", " %")
    text = f"{options[name] / scale:,.2f} {unit}, {share}"
    if abs(options[name] / figure - 1) > CLOSE:
        return None, f"no counter gives it within 1 %; nearest {TITLES.get(name, 'with buffers')} ({text})"
    if name == "buffers":
        return name, f"the size of the state dict ({text})"
    if name == "torch":
        return name, f"the true count ({text})"
    return name, f"the count of {TITLES[name]} ({text})"
