"""Result of an audit: every counter's FLOPs and parameters of one network, and where they are wrong.

It is the artifact of kind `audit`, which is somebody else's text until `read_audit` has checked it. A counter may be
off in both directions at once (transposed convolutions too high, products of two activations not at all), so
differences carry a sign.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from benchbench.core import records as rec
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError
from benchbench.core.records import AtLeast, Count
from benchbench.core.units import format_shape, signed_gmac

#: What a workload's protocol says when nothing was run but the counters.
PROTOCOL = "audit"

#: Counter -> its name for a person. PyTorch's own is the headline.
TITLES: Mapping[str, str] = {
    "torch": "PyTorch",
    "fvcore": "fvcore",
    "thop": "thop",
    "thop_fixed": "thop, corrected",
    "torch_pruning": "torch-pruning",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Parameters by the ways in which they are counted, and what some counts leave out."""

    all: Count  # every nn.Parameter once
    buffers: Count  # elements; a state dict holds them too
    bare: Count  # of nn.Parameters that no layer of torch.nn owns
    shared_modules: tuple[str, ...]  # with parameters, and reached by several paths; the topmost of each
    unused: Count | None  # of nn.Parameters that enter no operator of the forward; None: it could not be traced


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one counter says, or the reason why it says nothing."""

    counter: str
    version: str | None
    macs: Count | None
    params: Count | None
    factor: float | None  # its MACs over the headline's
    reason: str | None
    how: str
    uncounted: tuple[str, ...] = ()  # operators that may have MACs, and that the headline has no rule for


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One kind of operator that a counter gets wrong."""

    counter: str
    kind: str  # in words, `transposed convolutions`
    operator: str  # layer class or aten name
    counted: Count  # MACs
    true: Count  # MACs
    modules: Count  # in so many
    why: str

    @property
    def excess(self) -> int:
        """MACs counted too many; negative where some are missed."""
        return self.counted - self.true


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one kind of operator adds to a counter's total, whatever the operators are called."""

    kind: str
    excess: int  # MACs
    why: str  # of its largest difference


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCount:
    """The paper's figures, and which counter gives them."""

    macs: Annotated[float, AtLeast(0)] | None = None
    params: Annotated[float, AtLeast(0)] | None = None
    macs_counter: str | None = None
    params_counter: str | None = None
    macs_why: str = ""
    params_why: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """One network, audited; prints as text."""

    model: str
    input: tuple[int, ...]  # (B, C, D, H, W)
    params: Params
    counters: tuple[Counted, ...]
    differences: tuple[Difference, ...]  # by counter, the largest first
    published: PublishedCount
    verdict: str

    @property
    def macs(self) -> int | None:
        """The headline; None where it could not be had."""
        return self.counter("torch").macs

    @property
    def counts(self) -> dict[str, Counted]:
        """By counter."""
        return {c.counter: c for c in self.counters}

    def counter(self, name: str) -> Counted:
        """What one counter says.

        Raises:
            KeyError: there is no such counter.
        """
        return self.counts[name]

    def shares(self, counter: str) -> list[Share]:
        """What that counter gets wrong, by kind of operator, the largest first."""
        by_kind: dict[str, list[Difference]] = {}
        for d in self.differences:
            if d.counter == counter and d.excess:
                by_kind.setdefault(d.kind, []).append(d)
        shares = [
            Share(kind=kind, excess=sum(d.excess for d in ds), why=max(ds, key=lambda d: abs(d.excess)).why)
            for kind, ds in by_kind.items()
        ]
        return sorted((s for s in shares if s.excess), key=lambda s: (-abs(s.excess), s.kind))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as the artifact of kind `audit` holds them."""
        plain: dict[str, Any] = rec.to_json(self)
        return plain

    def measurements(self) -> list[rec.Measurement]:
        """`params`, `macs` and `flops` of the headline, of origin `analytic`."""
        headline = self.counter("torch")
        bound: Literal["at_least"] | None = "at_least" if headline.uncounted else None

        def exact(metric: str, unit: str, value: int | None, method: str) -> rec.Measurement:
            return rec.Measurement(
                metric=metric, unit=unit, value=value, origin="analytic", method=method,
                reason=None if value is not None else headline.reason,
            )  # fmt: skip

        return [
            exact("params", "parameters", self.params.all, "every nn.Parameter once; buffers not counted"),
            dataclasses.replace(exact("macs", "MAC", headline.macs, headline.how), bound=bound),
            dataclasses.replace(
                exact("flops", "FLOP", None if headline.macs is None else 2 * headline.macs, "2 x macs"), bound=bound
            ),
        ]

    def __str__(self) -> str:
        lines = [f"{self.model}, input {format_shape(self.input)}: {self.verdict}"]
        for c in self.counters:
            least = "at least " if c.uncounted else ""
            factor = "-" if c.factor is None else f"{c.factor:.2f}x"
            macs = c.reason if c.macs is None else f"{least}{c.macs / 1e9:,.3f} GMAC ({factor})"
            params = "" if c.params is None else f", {c.params:,} parameters"
            lines.append(f"  {TITLES[c.counter]:<16} {macs}{params}")
            for d in self.differences:
                if d.counter == c.counter:
                    lines.append(f"    {signed_gmac(d.excess)}  {d.kind} ({d.operator}): {d.why}")
        return "\n".join(lines)


def is_audit(record: rec.Record) -> bool:
    """Whether nothing but counting was asked for: no table of latencies has a place for it."""
    return record.workload.protocol == PROTOCOL


def read_audit(content: bytes) -> AuditResult:
    """The audit that an artifact holds.

    Raises:
        StoreError: the file is no audit.
    """
    try:
        return rec.from_json(AuditResult, parse_json(content, "the audit", StoreError))
    except (StoreError, KeyError, TypeError) as error:
        raise StoreError(f"the audit cannot be read ({type(error).__name__}: {error})") from error
