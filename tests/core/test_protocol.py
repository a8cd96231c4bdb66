"""Protocols by name and by number."""

import pytest

from benchbench.core.errors import UsageError
from benchbench.core.protocol import PROTOCOLS, get_protocol


def test_the_named_ones_are_themselves():
    for name, protocol in PROTOCOLS.items():
        assert get_protocol(name) is not None
        assert get_protocol(name) == protocol
        assert protocol.name == name
    assert [p.processes for p in PROTOCOLS.values()] == [1, 5, 10]


def test_numbers_make_one_of_its_own_and_its_name_says_which():
    found = get_protocol("standard,half_width=0.02,processes=8")
    assert (found.processes, found.max_processes, found.half_width) == (8, 10, 0.02)
    assert found.name == "standard,half_width=0.02,processes=8"
    assert get_protocol(found.name) == found
    assert get_protocol("processes=3").name == "quick,processes=3"
    assert get_protocol("processes=3").max_processes == 3
    assert get_protocol("standard,processes=5").name == "standard"  # the same cells as `standard`


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("standrd", "did you mean 'standard'"),
        ("", "unknown protocol ''"),
        ("standard,proceses=3", "did you mean 'processes'"),
        ("standard,processes=0", "at least 1, not '0'"),
        ("standard,processes=-2", "at least 1"),
        ("standard,processes=2.5", "whole number"),
        ("quick,min_samples=0", "at least 1"),
        ("quick,half_width=0", "above 0"),
        ("quick,half_width=-0.1", "above 0"),
        ("quick,half_width=nan", "above 0"),
        ("quick,timed_s=0", "above 0 seconds"),
        ("quick,timed_s", "write quick"),
        ("standard,processes=5,max_processes=4", "processes is 5 and max_processes 4"),
        ("quick,max_samples=5", "min_samples is 10 and max_samples 5"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        get_protocol(text)
    assert "\n" not in str(caught.value)


def test_slow_networks_get_fewer_samples_by_the_stated_rule():
    standard = PROTOCOLS["standard"]
    assert not standard.is_slow(0.4)
    assert [standard.samples_of_slow(s) for s in (1.0, 4.0, 9.0, 23.0)] == [5, 2, 2, 1]
    assert [PROTOCOLS["quick"].samples_of_slow(s) for s in (1.0, 4.0, 27.0)] == [5, 3, 3]
