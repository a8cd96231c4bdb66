"""The doctor: sound kernels pass, broken ones are findings, and what a machine lacks is named with its remedy."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchbench.core import records as rec
from benchbench.core.errors import DeviceError
from benchbench.devices import jetson
from benchbench.devices.hosts import Host
from benchbench.runner import doctor, kernel_check
from benchbench.runner.child_process import WorkerFailure
from benchbench.runner.doctor import Finding, ready
from benchbench.runner.kernel_check import KERNELS, TOLERANCE, KernelCheck, check_kernels
from benchbench.runner.remote import doctor as remote_doctor
from benchbench.runner.remote import ssh
from benchbench.runtimes import catalogue
from tests import tegra_trees

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
TRIALS = [("cpu", kernel, "fp32") for kernel in KERNELS]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def sabotage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs code in each child before it does anything: what a broken build of torch would do."""

    def plant(code: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    return plant


def test_every_kernel_of_this_cpu_is_launched_and_right() -> None:
    trials = [("cpu", kernel, dtype) for kernel in KERNELS for dtype in TOLERANCE]
    check = check_kernels(trials)
    assert check.torch is not None
    assert check.faults == {}
    assert set(check.sound) == set(trials)
    assert {trial: error for trial, error in check.sound.items() if error > TOLERANCE[trial[2]]} == {}


def test_a_kernel_that_ends_its_process_is_a_finding_and_the_others_are_still_tried(sabotage) -> None:
    sabotage(
        "import os, signal\nfrom benchbench.runner import kernel_check\n"
        "kernel_check.KERNELS['matrix product'] = lambda torch: os.kill(os.getpid(), signal.SIGILL)\n"
    )
    check = check_kernels(TRIALS)
    assert list(check.sound) == [TRIALS[0], TRIALS[2]]
    assert list(check.faults) == [TRIALS[1]]
    bad, good = doctor.kernel_findings(check, "cpu", "fp32")
    assert (bad.status, good.status) == ("fail", "ok")
    assert bad.text.startswith("matrix product: its process was killed by SIGILL")
    assert "built for this processor" in bad.advice


def test_a_kernel_that_hangs_is_a_finding(sabotage) -> None:
    sabotage(
        "import time\nfrom benchbench.runner import kernel_check\n"
        "kernel_check.KERNELS['conv3d'] = lambda torch: time.sleep(99)\n"
    )
    assert check_kernels(TRIALS[:1], limit_s=12).faults == {TRIALS[0]: "it was not done after 12 s"}


def test_a_wrong_result_is_a_finding_and_so_is_one_that_is_not_finite(sabotage) -> None:
    sabotage(
        "from benchbench.runner import kernel_check\n"
        "def off(factor):\n"
        "    def make(torch):\n"
        "        class Off(torch.nn.Module):\n"
        "            def forward(self, x):\n"
        "                return x if x.dtype == torch.float64 else x * factor\n"
        "        return Off(), torch.randn(2, 3)\n"
        "    return make\n"
        "kernel_check.KERNELS['conv3d'] = off(1.01)\n"
        "kernel_check.KERNELS['instance norm'] = off(float('inf'))\n"
    )
    wrong, infinite, sound = doctor.kernel_findings(check_kernels(TRIALS), "cpu", "fp32")
    assert wrong.text == "conv3d: its result is off the float64 one by 1.0e-02 (limit 1e-04)"
    assert infinite.text == "instance norm: its result is not finite"
    assert "another build" in wrong.advice
    assert (wrong.status, infinite.status, sound.status) == ("fail", "fail", "ok")


def test_a_fault_in_a_reduced_type_does_not_stand_in_the_way_of_fp32() -> None:
    faults = {("cuda", "conv3d", "bf16"): "no kernel image is available", ("cuda", "matrix product", "bf16"): "x"}
    findings = list(doctor.kernel_findings(KernelCheck(faults=faults), "cuda", "bf16"))
    assert [f.status for f in findings] == ["warn", "warn"]
    assert "without --dtype bf16" in findings[0].advice
    assert ready(findings)


def test_a_torch_that_cannot_start_is_one_finding(sabotage) -> None:
    sabotage("import sys\nsys.modules['torch'] = None\n")
    (found,) = doctor.examine_kernels(Path("/"), None, None)
    assert (found.name, found.status) == ("torch starts", "fail")
    assert "torch" in found.text


def test_children_that_keep_dying_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def talk(request, *, limit_s):
        asked.append(request)
        yield {"event": "torch", "version": "2.13.0", "cuda": None}
        yield {"event": "begin", "trial": request["trials"][0]}
        yield WorkerFailure(status="failed", error="its process was killed by SIGILL", stderr="")

    monkeypatch.setattr(kernel_check.child_process, "run_worker", talk)
    trials = [("cpu", kernel, dtype) for dtype in TOLERANCE for kernel in KERNELS]
    check = check_kernels(trials)
    assert set(check.faults) == set(trials)
    assert "not tried" in check.faults[trials[-1]]
    assert len(asked) == 4


def test_a_driver_that_ends_the_process_leaves_the_cpu_to_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def talk(request, *, limit_s):
        yield {"event": "torch", "version": "2.13.0", "cuda": "12.8"}
        if any(t[0] == "cuda" for t in request["trials"]):
            yield {"event": "begin"}
            yield WorkerFailure(status="failed", error="its process was killed by SIGSEGV", stderr="")
            return
        for trial in request["trials"]:
            yield {"event": "begin", "trial": trial}
            yield {"event": "sound", "trial": trial, "error": 1e-7}

    monkeypatch.setattr(kernel_check.child_process, "run_worker", talk)
    check = check_kernels([("cpu", "conv3d", "fp32"), ("cuda", "conv3d", "fp32")])
    assert check.end == "its process was killed by SIGSEGV"
    assert set(check.sound) == {("cpu", "conv3d", "fp32")}


@pytest.mark.parametrize(
    ("capability", "arches", "tegra", "status", "says"),
    [
        ((8, 7), ["sm_87"], True, "ok", "sm_87 is in"),
        ((9, 0), ["sm_80", "sm_90a"], False, "ok", "sm_90 is in"),
        ((8, 6), ["sm_75", "sm_80", "sm_90"], False, "ok", "runs the code for sm_80"),
        ((8, 7), ["sm_80", "sm_90"], True, "warn", "see the kernels"),
        ((8, 7), ["sm_90", "compute_80"], True, "warn", "compiles compute_80"),
        ((6, 1), ["sm_80", "compute_90"], False, "warn", "not in torch's build"),
        ((12, 0), ["sm_120"], False, "ok", "sm_120 is in"),
        ((7, 5), [], False, "warn", "(none)"),
    ],
)
def test_the_build_of_torch_is_held_against_the_gpu(capability, arches, tegra, status, says) -> None:
    found = doctor.architecture(capability, arches, tegra=tegra)
    assert found.status == status
    assert says in found.text
    assert bool(found.advice) == (status == "warn")


def test_a_whole_examination_launches_then_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def talk(request, *, limit_s):
        if request["task"] == "count":
            memory = {"metric": "tensor_memory_bytes", "unit": "B", "value": 10**6, "origin": "analytic", "method": "x"}
            for index in range(3):
                yield {"event": "begin", "index": index}
                yield {"event": "cost", "index": index, "measurements": [memory], "layers": [], "operators": []}
            yield WorkerFailure(status="timeout", error="stopped; a longer one: --time-limit", stderr="")
            return
        yield {"event": "torch", "version": "2.8.0", "cuda": "12.6"}
        yield {"event": "begin"}
        yield {"event": "gpu"} | GPU
        for trial in request["trials"]:
            yield {"event": "begin", "trial": trial}
            yield {"event": "fault", "trial": trial, "why": "no image"}

    monkeypatch.setattr(kernel_check.child_process, "run_worker", talk)
    found = list(doctor.examine_kernels(tegra_trees.orin_nano(tmp_path), jetson.detect(tmp_path), "cuda"))
    assert [(f.name, f.status) for f in found] == [
        ("gpu", "ok"),
        ("gpu architecture", "ok"),
        ("gpu memory", "ok"),  # shared with the CPU, so a part is always taken
        ("cuda fp32 kernels", "fail"),
        ("cuda bf16 kernels", "warn"),
        ("cuda fp16 kernels", "warn"),
        ("fits memory", "ok"),
    ]
    assert "conv3d, matrix product, instance norm: no image" in found[3].text
    assert found[-1].text.startswith("the 3 networks counted so far")


GPU = {
    "why": None,
    "name": "Orin",
    "capability": [8, 7],
    "arches": ["sm_87"],
    "free_bytes": 5 * 10**9,
    "total_bytes": 8 * 10**9,
}


@pytest.mark.parametrize(
    ("gpu", "backend", "statuses"),
    [
        (GPU, "cuda", {"gpu": "ok", "gpu architecture": "ok", "gpu memory": "warn"}),
        (
            GPU | {"free_bytes": 79 * 10**8, "energy": {"what": "NVML"}},
            "cuda",
            {"gpu memory": "ok", "gpu energy": "ok"},
        ),
        (GPU | {"energy": {"why": "nvidia-ml-py is not installed"}}, "cuda", {"gpu energy": "warn"}),
        ({"why": "cuda asked for and absent: no driver; install one"}, "cuda", {"gpu": "fail"}),
        ({"why": "cuda asked for and absent: no driver; install one"}, None, {"gpu": "ok"}),
    ],
)
def test_what_torch_sees_of_a_gpu_is_told(
    gpu: dict[str, object],
    backend: doctor.Backend | None,
    statuses: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    check = KernelCheck(torch={"version": "2.8.0", "cuda": "12.6"}, gpu=gpu)
    monkeypatch.setattr(doctor, "check_kernels", lambda trials: check)
    monkeypatch.setattr(kernel_check.child_process, "run_worker", lambda request, limit_s: iter(()))
    found = by_name(list(doctor.examine_kernels(tmp_path, None, backend)))
    assert {name: found[name].status for name in statuses} == statuses
    assert "asked for and absent" not in found["gpu"].text
    if found["gpu"].status == "fail":
        assert found["gpu"].advice == "install one"


def test_networks_that_do_not_fit_are_named() -> None:
    found = doctor.fits("memory", 2 * 10**9, {"a": 10**9, "b": 3 * 10**9}, 3)
    assert found.status == "warn"
    assert found.text.startswith("1 of the 2 networks counted so far, not b (3 GB)")
    found = doctor.fits("memory", 4 * 10**9, {"a": 10**9, "b": 3 * 10**9}, 2)
    assert (found.status, found.advice) == ("ok", "")
    assert found.text.startswith("all 2 networks: b takes most, 3 GB of 4 GB free")


def test_a_jetson_tells_board_power_mode_clocks_and_energy(tmp_path: Path) -> None:
    found = by_name(list(doctor.examine(tegra_trees.orin_nano(tmp_path), kernels=False)))
    assert "Orin Nano" in found["board"].text
    assert found["power mode"].status == "ok"
    assert found["clocks"].status == "warn"
    assert "jetson_clocks" in found["clocks"].advice
    assert found["energy"].text == "VDD_IN: module rails, not wall"
    assert "share" in found["memory"].text


def test_locked_clocks_are_sound(tmp_path: Path) -> None:
    found = by_name(list(doctor.examine(tegra_trees.orin_nano(tmp_path, locked=True), kernels=False)))
    assert found["clocks"].status == "ok"


def test_a_pc_that_is_busy_and_scales_its_clocks_is_warned_of(tmp_path: Path) -> None:
    tegra_trees.lay_out(
        tmp_path,
        {
            "proc/loadavg": "99.5 3 2 1/2 3\n",
            "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 1000000 kB\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
            "sys/class/powercap/intel-rapl:0/name": "package-0\n",
        },
    )
    found = by_name(list(doctor.examine(tmp_path, kernels=False)))
    names = ("load", "memory", "cpu clocks", "energy")
    assert {name: found[name].status for name in names} == dict.fromkeys(names, "warn")
    assert all(found[name].advice for name in names)
    assert "board" not in found


def test_a_results_folder_that_cannot_be_written_stands_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = by_name(list(doctor.examine(tmp_path, kernels=False, results=tmp_path / "file" / "inside")))
    assert found["results folder"].status == "fail"
    assert "--out" in found["results folder"].advice


def test_the_packages_looked_for_are_those_of_the_project() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    least = {
        re.split(r"[<>=!~; \[]", w)[0]: re.search(r">=([\d.]+)", w)[1] for w in wanted if "python_version" not in w
    }  # type: ignore[index]
    assert set(least) == set(doctor.NEEDED) | set(doctor.WANTED)
    for name, version in (doctor.NEEDED | doctor.WANTED).items():
        assert least[name].startswith(version)


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.8.0a0+5228986c39.nv25.6", "ok"), ("2.13.0+cpu", "ok"), ("2.7.1", "fail"), ("3.0", "ok"), ("", "fail")],
)
def test_versions_compare_as_numbers(monkeypatch: pytest.MonkeyPatch, version: str, status: str) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: version)
    found = doctor._package("torch", "2.8")
    assert found.status == status
    assert bool(found.advice) == (status == "fail")


def test_a_package_that_is_not_there_names_the_install_that_keeps_the_boards_torch() -> None:
    found = doctor._package("no-such-package", "1")
    assert (found.status, found.text) == ("fail", "not installed")
    assert "--system-site-packages" in found.advice


@pytest.mark.parametrize(
    ("far", "status", "says"),
    [
        (105.0, "ok", "agree"),
        (109.0, "ok", "agree"),  # within what the way may have taken
        (90.0, "warn", "10 s behind"),
        (4000.0, "warn", "ahead"),
        (None, "warn", "does not tell"),
        ("x", "warn", "does not tell"),
    ],
)
def test_clocks_are_compared_by_what_the_way_cannot_explain(far: object, status: str, says: str) -> None:
    found = remote_doctor.skew(far, 100.0, 108.0)
    assert found.status == status
    assert says in found.text


class FarSide:
    """Stands for `ssh.Connection`: answers with what was given to it."""

    def __init__(self, *answers: object, noise: bytes = b"") -> None:
        self.answers, self.noise = answers, noise

    def __call__(self, host: Host, words: list[str]) -> FarSide:
        return self

    def __enter__(self) -> FarSide:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def events(self, limit_s: float):
        yield from self.answers


HOST = Host("jetson", "orin", user="user")


def test_a_host_that_cannot_be_reached_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    far = FarSide(ssh.ConnectionLost("ssh://user@orin cannot be reached: ssh: connect to host orin port 22: no"))
    monkeypatch.setattr(ssh, "Connection", far)
    (found,) = remote_doctor.examine(HOST)
    assert (found.name, found.status) == ("connection", "fail")
    assert "cannot be reached" in found.text


def test_a_host_without_benchbench_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    far = FarSide(ssh.ConnectionLost("benchbench is not installed for python3 on jetson: install it there"))
    monkeypatch.setattr(ssh, "Connection", far)
    (found,) = remote_doctor.examine(HOST)
    assert "--system-site-packages" in found.advice


def test_another_schema_ends_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    far = FarSide({"event": "hello", "schema": 999, "protocol": ssh.PROTOCOL, "version": "9.0"})
    monkeypatch.setattr(ssh, "Connection", far)
    found = list(remote_doctor.examine(HOST))
    assert [f.name for f in found] == ["connection", "versions"]
    assert "upgrade" in found[-1].advice


def test_a_banner_is_warned_of_and_what_the_far_side_finds_is_passed_on_without_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hello = {"event": "hello", "schema": rec.SCHEMA, "protocol": ssh.PROTOCOL, "clock_s": 100.0}
    hello |= {"device": {"kind": "jetson", "name": "Orin"}, "backend": "cuda"}
    monkeypatch.setattr(ssh, "Connection", FarSide(hello, noise=b"Welcome\x1b[2J"))
    events = [
        {"event": "finding", "name": "torch", "status": "ok", "text": "2.8.0\x1b[31m", "advice": ""},
        {"event": "finding", "name": "x", "status": "invented", "text": "y"},
        ssh.ConnectionLost("the connection to ssh://user@orin was lost: gone"),
    ]
    monkeypatch.setattr(ssh, "ask", lambda host, words, *, limit_s: iter(events))
    found = list(remote_doctor.examine(HOST, clock=lambda: 100.0))
    assert [(f.name, f.status) for f in found] == [
        ("connection", "ok"),
        ("banner", "warn"),
        ("device", "ok"),
        ("clocks", "ok"),
        ("torch", "ok"),
        ("x", "fail"),
        ("connection", "fail"),
    ]
    assert "\x1b" not in "".join(f.text for f in found)


@pytest.mark.parametrize(
    ("hello", "status", "says"),
    [
        ({"device": {"kind": "jetson", "name": "Orin"}, "backend": "cuda"}, "ok", "on the GPU of it: Orin"),
        (
            {"device": {"kind": "cpu", "name": "N100"}, "backend": "cpu"},
            "fail",
            "called 'jetson' and is none, but N100",
        ),
        ({"device": None, "problem": "torch is not installed"}, "fail", "torch is not installed"),
        ({}, "fail", "is none"),
    ],
)
def test_what_a_host_measures_on_is_a_finding(hello: dict[str, object], status: str, says: str) -> None:
    found = remote_doctor.device(HOST, hello)
    assert found.status == status
    assert says in found.text


def test_a_name_that_means_nothing_here_is_refused_with_what_would_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BENCHBENCH_CONFIG", str(tmp_path / "hosts.toml"))
    for name, says in (("cude", "did you mean 'cuda'"), ("rtx-4090", "is a profile"), ("jetson", "devices add")):
        with pytest.raises(DeviceError, match=re.escape(says)):
            remote_doctor.find_patient(name, results=tmp_path, root=tmp_path)


def test_ready_is_whether_nothing_failed() -> None:
    assert ready([Finding("a", "ok", "x"), Finding("b", "warn", "y")])
    assert not ready([Finding("a", "fail", "x")])


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch):
    """Which modules are installed, and the version of each."""

    def have(**versions: str) -> None:
        monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: name if name in versions else None)
        monkeypatch.setattr(doctor, "installed", versions.get)

    return have


def test_each_runtime_is_told_with_what_it_lacks(packages) -> None:
    packages(onnxruntime="1.23", onnx="1.19", onnxscript="0.5")
    found = by_name(list(doctor.runtime_findings(gpu=False)))
    assert list(found) == ["onnxruntime", "openvino"]
    assert found["openvino"] == Finding("openvino", "warn", "not installed", "pip install 'benchbench[openvino]'")
    assert found["onnxruntime"].status == "ok"
    assert found["onnxruntime"].text == "1.23; without int8: openvino, nncf not installed"
    packages(openvino="2026.4", onnxruntime="1.23", onnx="1.19", onnxscript="0.5", nncf="3.4")
    assert [f.text for f in doctor.runtime_findings(gpu=False)] == ["1.23", "2026.4"]
    packages(openvino="2026.4")
    found = by_name(list(doctor.runtime_findings(gpu=False)))
    assert found["openvino"].text == "onnx, onnxscript not installed"
    assert ready(list(found.values()))


@pytest.mark.parametrize(
    ("version", "status", "text"),
    [
        (None, "warn", "not installed"),
        ("8.6.2", "warn", "TensorRT 8.6.2 is installed, and 10 or newer is needed"),
        ("10.3.0", "ok", "10.3.0"),
    ],
)
def test_tensorrt_is_told_where_there_is_a_gpu(packages, version, status, text) -> None:
    packages(onnx="1.19", onnxscript="0.5", **({"tensorrt": version} if version else {}))
    assert "tensorrt" not in by_name(list(doctor.runtime_findings(gpu=False)))
    found = by_name(list(doctor.runtime_findings(gpu=True)))["tensorrt"]
    assert (found.status, found.text) == (status, text)
    assert bool(found.advice) == (status == "warn")


def test_a_jetson_has_a_gpu_and_so_has_a_machine_with_nvidias_driver(tmp_path: Path) -> None:
    driver = tmp_path / "pc" / "proc/driver/nvidia/version"
    driver.parent.mkdir(parents=True)
    driver.write_text("NVRM version")
    for root, gpu in ((tegra_trees.orin_nano(tmp_path / "board"), True), (tmp_path / "pc", True), (tmp_path, False)):
        assert ("tensorrt" in by_name(list(doctor.examine(root, kernels=False)))) == gpu
