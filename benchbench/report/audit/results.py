"""Artifact of an audit: each public counter's figures for one network, and where they are wrong.

The file (artifact kind `audit`) is somebody else's text until it has been checked, so every value is looked at once,
here. A counter may be off in both directions at once (transposed convolutions too high, products of two activations
not at all), so differences carry a sign.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from benchbench.core import records as rec
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError

#: What a workload's protocol says when nothing was run but the counters.
PROTOCOL = "audit"

#: Counter -> its name for a person, in the order of the tables. PyTorch's own is the one that we trust.
COUNTERS: Mapping[str, str] = {
    "torch": "PyTorch",
    "thop": "thop",
    "thop_fixed": "thop, corrected",
    "fvcore": "fvcore",
    "torch_pruning": "torch-pruning",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What one counter says of the network, or why it says nothing."""

    counter: str
    version: str | None
    macs: int | None
    params: int | None
    reason: str | None  # why there is no count
    how: str
    uncounted: tuple[str, ...] = ()  # operators that the headline has no rule for: then it is a lower bound


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CountDifference:
    """One kind of operator that a counter gets wrong."""

    counter: str
    kind: str  # in words: `transposed convolution`
    operator: str
    counted: int  # MACs
    true: int  # MACs
    modules: int  # how many modules it comes from
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
class Parameters:
    """Elements that a count of parameters may take in or leave out."""

    all: int  # every nn.Parameter once
    buffers: int
    bare: int  # of nn.Parameters that no layer owns: counters that ask layers miss them
    unused: int | None  # of nn.Parameters that the forward never reads; None: it could not be traced
    shared_modules: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A published figure, the counter that reproduces it, and why it is not ours."""

    value: float | None
    counter: str | None
    why: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One network, audited."""

    params: Parameters
    counts: Mapping[str, Count]  # by counter
    differences: tuple[CountDifference, ...]
    published: Mapping[str, Explained]  # by metric: `macs`, `params`
    verdict: str

    def shares(self, counter: str) -> list[Share]:
        """What that counter gets wrong, by kind of operator, the largest first."""
        found: dict[str, list[CountDifference]] = {}
        for d in self.differences:
            if d.counter == counter and d.excess:
                found.setdefault(d.kind, []).append(d)
        shares = [
            Share(kind=kind, excess=sum(d.excess for d in ds), why=max(ds, key=lambda d: abs(d.excess)).why)
            for kind, ds in found.items()
        ]
        return sorted((s for s in shares if s.excess), key=lambda s: (-abs(s.excess), s.kind))


def is_audit(record: rec.Record) -> bool:
    """Whether nothing but counting was asked for: no table of latencies has a place for it."""
    return record.workload.protocol == PROTOCOL


def read(content: bytes) -> Audit:
    """Read an audit.

    Args:
        content: the artifact, JSON.

    Raises:
        StoreError: the file is no audit.
    """
    try:
        data = parse_json(content, "the audit", StoreError)
        sizes, published = data["params"], data["published"]
        return Audit(
            params=Parameters(
                **{key: _count(sizes[key]) for key in ("all", "buffers", "bare")},
                unused=None if sizes["unused"] is None else _count(sizes["unused"]),
                shared_modules=tuple(_text(name) for name in _list(sizes["shared_modules"])),
            ),
            counts={c.counter: c for c in map(_read_count, _list(data["counters"]))},
            differences=tuple(map(_read_difference, _list(data["differences"]))),
            published={
                metric: Explained(
                    value=_number(published[metric]),
                    counter=_maybe(_text, published[f"{metric}_counter"]),
                    why=_text(published[f"{metric}_why"]),
                )
                for metric in ("macs", "params")
            },
            verdict=_text(data["verdict"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise StoreError(f"the audit cannot be read ({type(error).__name__}: {error})") from error


def _read_count(item: Any) -> Count:
    return Count(
        counter=_text(item["counter"]),
        version=_maybe(_text, item["version"]),
        macs=_maybe(_count, item["macs"]),
        params=_maybe(_count, item["params"]),
        reason=_maybe(_text, item["reason"]),
        how=_text(item["how"]),
        uncounted=tuple(_text(name) for name in _list(item.get("uncounted", []))),
    )


def _read_difference(item: Any) -> CountDifference:
    return CountDifference(
        counter=_text(item["counter"]),
        kind=_text(item["kind"]),
        operator=_text(item["operator"]),
        counted=_count(item["counted"]),
        true=_count(item["true"]),
        modules=_count(item["modules"]),
        why=_text(item["why"]),
    )


def _maybe(read: Any, value: Any) -> Any:
    return None if value is None else read(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError(f"{value!r} is not a count")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise TypeError(f"{value!r} is not a published figure")
    return float(value)
