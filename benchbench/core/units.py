"""Units: quantities as people write them, to SI numbers and back; the only formatter of numbers.

Decimal and binary prefixes are kept apart: `2GB` is 2e9 bytes and `2GiB` is 2 * 2**30. A value is
shown with three significant digits, so that one column can be compared at a glance; records hold
the full value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from benchbench.core.errors import UsageError

_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_JOULES = {"mJ": 1e-3, "J": 1.0, "kJ": 1e3}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
AXES = "DHW"  # of a volume; of a prepared case left to right, back to front, feet to head
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")

#: Unit of a Measurement -> (scales from large to small: divisor, text).
_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "parameters": ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")),
    "MAC": ((1e12, "TMAC"), (1e9, "GMAC"), (1e6, "MMAC"), (1e3, "kMAC"), (1, "MAC")),
    "FLOP": ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1, "FLOP")),
    "MAC/s": ((1e12, "TMAC/s"), (1e9, "GMAC/s"), (1e6, "MMAC/s"), (1, "MAC/s")),
    "B/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
    "Hz": ((1e9, "GHz"), (1e6, "MHz"), (1e3, "kHz"), (1, "Hz")),
}


def parse_bytes(text: str) -> int:
    """Bytes from `2GB`, `1.5GiB`, `512 MB`.

    Raises:
        UsageError: if the text is no number with a byte unit.
    """
    return round(_parse(text, _BYTES, "a size such as 2GB or 1.5GiB", fold=True))


def parse_seconds(text: str) -> float:
    """Seconds from `50ms`, `2s`, `20min`, `1h`.

    Raises:
        UsageError: if the text is no number with a unit of time.
    """
    return _parse(text, _SECONDS, "a time such as 50ms, 2s or 20min", fold=False)


def parse_joules(text: str) -> float:
    """Joules from `5J`, `200mJ`.

    Raises:
        UsageError: if the text is no number with a unit of energy.
    """
    return _parse(text, _JOULES, "an energy such as 5J or 200mJ", fold=False)


def _parse(text: str, units: dict[str, float] | dict[str, int], wanted: str, *, fold: bool) -> float:
    match = _QUANTITY.fullmatch(text)
    unit = match[2].lower() if match and fold else match[2] if match else ""
    if match is None or unit not in units:
        raise UsageError(f"{text!r} is not {wanted} (units: {', '.join(units)})")
    value = float(match[1]) * units[unit]
    if not math.isfinite(value):
        raise UsageError(f"{text!r} is too large")
    return value


def format_value(value: float | None, unit: str) -> str:
    """One number for a person: `2.52 GMAC`, `1.78 M`, `171 ms`, `94.1 MB`, `0.812`.

    Args:
        value: in the unit given, or None where there is no value.
        unit: `parameters`, `MAC`, `FLOP`, `B`, `s`, `1/s`, `1` (a ratio or Dice), or any other.
    """
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if unit == "1":
        return f"{value:.3f}"
    for divisor, text in _SCALES.get(unit, ()):
        if abs(value) >= divisor * 0.9995 or divisor == _SCALES[unit][-1][0]:
            return f"{significant(value / divisor)} {text}".rstrip()
    return f"{significant(value)} {unit}".rstrip()


def significant(value: float, digits: int = 3) -> str:
    """A plain decimal with at least `digits` significant digits and no exponent: `0.0123`, `12.4`, `1240`."""
    if value == 0:
        return "0"
    if float(value).is_integer() and abs(value) < 10**digits:
        return str(int(value))
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    rounded = round(value, places)
    if rounded and math.floor(math.log10(abs(rounded))) > math.floor(math.log10(abs(value))):
        places = max(0, places - 1)  # 9.996 has become 10.00: one place less
    return f"{rounded:.{places}f}"


def giga(macs: float) -> str:
    """MACs in thousand millions, four digits: `2.516`."""
    return significant(macs / 1e9, 4)


def signed(macs: float) -> str:
    """A difference in thousand millions: `+9.51`, `−0.0312`."""
    return f"{'+' if macs > 0 else '−' if macs < 0 else ''}{significant(abs(macs) / 1e9)}"


def mega(params: float) -> str:
    """Parameters in millions, four digits: `1.783`."""
    return significant(params / 1e6, 4)


def times(factor: float) -> str:
    """A factor for a person: `4.94 x`."""
    return f"{significant(factor)} x"


def percent(share: float, *, trim: bool = False) -> str:
    """`1.2 %`, `2.0 %`; trimmed `2 %`."""
    text = f"{100 * share:.1f}"
    return f"{text.removesuffix('.0') if trim else text} %"


def gmac(macs: float) -> str:
    """MACs in GMAC as papers print them: two decimals, and three significant digits where that is below a tenth."""
    value = macs / 1e9
    if not value or value >= 0.1:
        return f"{value:,.2f}"
    return f"{value:.{2 - math.floor(math.log10(value))}f}"


def signed_gmac(macs: float) -> str:
    """A difference as `gmac` has it, with its sign: `+9.51 G`."""
    return f"{'+' if macs >= 0 else '-'}{gmac(abs(macs))} G"


def counted(n: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{n} {noun}{'s' * (n != 1)}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def first_few(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """`a, b and 3 more`."""
    return separator.join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def format_axes(axes: Sequence[int]) -> str:
    """`D,H`, of axes 0 to 2 of a volume."""
    return ",".join(AXES[axis] for axis in axes)


def format_shape(sides: tuple[int, ...] | list[int]) -> str:
    """`128x128x128`."""
    return "x".join(str(side) for side in sides)


def format_duration(seconds: float) -> str:
    """A waiting time for a person: `42 s`, `3 min 20 s`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
