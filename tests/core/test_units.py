"""Quantities: what a person writes is what they read back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbench.core import units
from benchbench.core.errors import UsageError

BYTE_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BYTE_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@given(st.integers(0, 10**6), st.sampled_from(sorted(BYTE_UNITS)), st.sampled_from(["", " "]))
def test_bytes_are_the_number_times_the_unit(number: int, unit: str, gap: str) -> None:
    assert units.parse_bytes(f"{number}{gap}{unit}") == number * BYTE_UNITS[unit]


@given(st.integers(1, 10**6), st.sampled_from(sorted(BYTE_UNITS)))
def test_the_case_of_a_byte_unit_does_not_matter(number: int, unit: str) -> None:
    assert units.parse_bytes(f"{number}{unit.upper()}") == units.parse_bytes(f"{number}{unit.lower()}")


@given(st.floats(0, 1e6).map(lambda x: round(x, 3)), st.sampled_from(sorted(TIME_UNITS)))
def test_seconds_are_the_number_times_the_unit(number: float, unit: str) -> None:
    assert units.parse_seconds(f"{number:.3f}{unit}") == pytest.approx(number * TIME_UNITS[unit])


def test_decimal_and_binary_prefixes_are_kept_apart() -> None:
    assert units.parse_bytes("2GB") == 2_000_000_000
    assert units.parse_bytes("2GiB") == 2_147_483_648


@pytest.mark.parametrize("text", ["", "2", "GB", "2 parsecs", "-1GB", "1,5GB", "nan GB", "2GB of RAM"])
def test_what_is_no_size_is_refused_with_the_units_that_would_do(text: str) -> None:
    with pytest.raises(UsageError, match=r"not a size such as .*gib"):
        units.parse_bytes(text)


@pytest.mark.parametrize("text", ["", "20", "20 minutes", "1M", "-5s", "5 S"])
def test_what_is_no_time_is_refused_with_the_units_that_would_do(text: str) -> None:
    with pytest.raises(UsageError, match=r"not a time such as .*min"):
        units.parse_seconds(text)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2_516_379_648, "MAC", "2.52 GMAC"),
        (771_643_486_848, "MAC", "772 GMAC"),
        (1_783_425, "parameters", "1.78 M"),
        (0.171, "s", "171 ms"),
        (27.2, "s", "27.2 s"),
        (94_100_000, "B", "94.1 MB"),
        (0.8123, "1", "0.812"),
        (0.9999e9, "B", "1.00 GB"),
        (0, "B", "0 B"),
        (5.81, "1/s", "5.81 1/s"),
        (None, "s", "-"),
        (math.inf, "s", "inf"),
    ],
)
def test_values_are_shown_with_three_digits_and_a_unit(value: float | None, unit: str, text: str) -> None:
    assert units.format_value(value, unit) == text


@given(st.floats(1e-9, 1e15), st.sampled_from(["parameters", "MAC", "FLOP", "B", "s", "J"]))
def test_what_is_shown_is_within_half_a_percent_of_the_value(value: float, unit: str) -> None:
    scales = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "ms": 1e-3, "us": 1e-6}
    number, _, text = units.format_value(value, unit).partition(" ")
    scale = scales.get(text, scales.get(text.removesuffix(unit), 1.0))
    assert float(number) * scale == pytest.approx(value, rel=0.0051)


@given(st.floats(1e-6, 1e9).filter(bool), st.integers(1, 6))
def test_significant_digits_are_a_plain_decimal_close_to_the_value(value: float, digits: int) -> None:
    text = units.significant(value, digits)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


def test_rounding_up_does_not_add_a_digit() -> None:
    assert units.significant(9.996) == "10.0"
    assert units.significant(-0.01234) == "-0.0123"
    assert units.significant(12) == "12"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (42, "42 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (3900, "1 h 5 min")],
)
def test_durations_are_as_a_person_says_them(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


def test_shapes_are_joined_by_x() -> None:
    assert units.format_shape((128, 96, 64)) == "128x96x64"


def test_more_than_any_number_is_refused() -> None:
    with pytest.raises(UsageError, match="is too large"):
        units.parse_bytes("1e999GB")
