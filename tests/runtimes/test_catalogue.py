"""Which runtime there is, what it can do where, and what is said where it cannot."""

import importlib.util

import pytest

from benchbench.core.errors import UnsupportedError, UsageError
from benchbench.runtimes import catalogue
from benchbench.runtimes.catalogue import MEASURED, RUNTIMES, check, get_runtime, of_file


def test_a_runtime_is_found_by_its_name_and_by_the_ending_of_its_files():
    assert set(MEASURED) == {"eager", "eager-optimized", "compile", "onnxruntime", "openvino", "tensorrt"}
    for runtime in RUNTIMES.values():
        assert get_runtime(runtime.name) is runtime
        assert not runtime.ending or of_file(runtime.ending) is runtime
    with pytest.raises(UsageError, match="did you mean 'openvino'"):
        get_runtime("openvno")
    with pytest.raises(UsageError, match=r"exported networks end in \.onnx, \.xml"):
        of_file(".pt")


@pytest.mark.parametrize(
    ("name", "dtype", "backend", "why"),
    [
        ("eager", "int8", "cpu", "no int8 on cpu, only fp32, bf16, fp16"),
        ("onnxruntime", "bf16", "cpu", "ONNX Runtime has no bf16 on cpu, only fp32, int8"),
        ("openvino", "fp32", "cuda", "OpenVINO does not run on cuda here, only on cpu"),
        ("tensorrt", "fp32", "cpu", "TensorRT does not run on cpu here, only on cuda"),
    ],
)
def test_what_a_runtime_does_not_have_on_a_device_is_said(name, dtype, backend, why):
    with pytest.raises(UnsupportedError, match=why):
        check(name, dtype, backend)


def test_a_runtime_that_is_not_installed_names_the_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        catalogue.importlib.util, "find_spec", lambda name: None if name in ("openvino", "nncf") else found(name)
    )
    with pytest.raises(UnsupportedError, match=r"openvino not installed: pip install 'benchbench\[openvino\]'"):
        check("openvino", "fp32", "cpu")
    pytest.importorskip("onnxruntime")
    check("onnxruntime", "fp32", "cpu")
    with pytest.raises(UnsupportedError, match="openvino, nncf not installed"):
        check("onnxruntime", "int8", "cpu")


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch):
    pytest.importorskip("openvino")
    from benchbench.runtimes import openvino

    class Library:
        class Core:
            def get_property(self, device, name):
                return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "library", lambda: Library)
    check("openvino", "int8", "cpu")
    with pytest.raises(UnsupportedError, match="no bf16 in OpenVINO: take --dtype fp32"):
        check("openvino", "bf16", "cpu")


def test_openvino_is_imported_so_that_it_finds_nothing_to_send_usage_data_with():
    pytest.importorskip("openvino")
    import subprocess
    import sys

    code = (
        "import sys; from benchbench.runtimes import openvino, quantize; openvino.library(); quantize.library();"
        "assert 'openvino_telemetry' not in sys.modules, 'it is loaded';"
        "import nncf.telemetry; print(type(nncf.telemetry.telemetry).__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Mock" in ran.stdout or "Stub" in ran.stdout
