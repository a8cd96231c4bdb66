"""A file that was made for one machine is refused on another; one that was made for none runs on any."""

import re
import types

import numpy as np
import pytest

from benchbench.devices import cpu
from benchbench.runtimes import catalogue
from benchbench.runtimes.prepared import PreparedError, PreparedNetwork, check_made_for


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    library = types.SimpleNamespace(open_file=lambda prepared, threads, gpu: lambda x: x)
    monkeypatch.setattr(catalogue.Runtime, "load", lambda self: library)
    monkeypatch.setattr(catalogue.Runtime, "missing", lambda self, *more: None)

    def make(made_for):
        return PreparedNetwork(
            path=tmp_path / "a.xml", runtime="openvino", dtype="fp32", input_shape=(1, 1, 4, 4, 4), made_for=made_for
        )

    return make


def test_a_file_of_no_machine_and_one_of_this_machine_are_loaded(prepared):
    x = np.ones((1, 1, 4, 4, 4), np.float32)
    for made_for in (None, cpu.name()):
        assert np.array_equal(prepared(made_for).load()(x), x)


def test_a_file_of_another_processor_is_refused_in_one_line(prepared):
    told = re.escape(f"a.xml was made for a Cray-1, and this is {cpu.name()}: export")
    with pytest.raises(PreparedError, match=told) as caught:
        prepared("a Cray-1").load()
    assert "\n" not in str(caught.value)


def test_what_this_machine_is_called_is_compared_exactly(prepared):
    check_made_for(prepared("Orin, TensorRT 10.3.0"), "Orin, TensorRT 10.3.0")
    with pytest.raises(PreparedError):
        check_made_for(prepared("Orin, TensorRT 10.3.0"), "Orin, TensorRT 10.3.1")
