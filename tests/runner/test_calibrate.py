"""A calibrated profile: written, read, refused where it is broken, and forecast from."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path

import pytest

from benchbench.cli.commands import calibrate as calibrate_command
from benchbench.cli.commands import list as list_command
from benchbench.cli.main import main
from benchbench.core.errors import DeviceError
from benchbench.core.records import Measurement, OperatorCost, Workload
from benchbench.devices import cpu
from benchbench.devices.forecast import SCALED_FACTOR, predict
from benchbench.devices.latency_model import place
from benchbench.devices.profile import Calibration, Profile, load_profile, write_profile
from benchbench.devices.resolve import resolve
from benchbench.measure.operators import microbenchmarks, replay
from benchbench.report import render
from benchbench.runner import calibrate
from benchbench.runner import plan as runner_plan
from benchbench.runner.request import RunRequest
from benchbench.zoo import cards as zoo_cards

pytestmark = pytest.mark.usefixtures("forked_workers")


def operator(kind: str = "conv", macs: int = 10**9) -> OperatorCost:
    return OperatorCost(
        operator="convolution",
        kind=kind,
        module="a",
        macs=macs,
        read_bytes=10**6,
        written_bytes=10**6,
        output_shape=(10**6,),
        kernel=27,
    )


PROFILE = Profile(
    name="me",
    title="My processor, 2 threads, fp32",
    kind="cpu",
    core="2 threads",
    bandwidth_bytes_per_s=1e10,
    peaks={"fp32": 2e11},
    reserve_bytes=0,
    sources={"fp32": "timed", "bandwidth_bytes_per_s": "timed", "reserve_bytes": "none"},
    calibration=Calibration(
        dtype="fp32",
        runtime="eager",
        threads=2,
        processor="My processor",
        versions={"torch": "2.13.0"},
        when="2026-01-02T03:04:05+00:00",
        seconds=600.0,
        calls=3,
        failed=0,
        without_room=0,
        repeated=3,
        disturbed=0,
        scale=1.5,
        interval=1.25,
        held=2,
        error=0.08,
        ratios={"a": 1.1, "b b": 0.9},
        measured={"a": 0.1, "b b": 0.2},
        launch_s=1e-5,
        points={"conv/convolution": ((*place(operator()), 0.0), (*place(operator(macs=10**7)), 0.7))},
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_profile(PROFILE, tmp_path / "me.toml")
    return tmp_path / "me.toml"


def by_metric(measurements: tuple[Measurement, ...]) -> dict[str, Measurement]:
    return {m.metric: m for m in measurements}


def test_a_profile_is_read_as_it_was_written(path: Path) -> None:
    assert load_profile(path) == PROFILE
    assert load_profile(path).tier == "calibrated"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("schema = 1", "schema = 2", "has schema 2, and this benchbench reads 1"),
        ("scale = 1.5", "scale = 0", r"\[calibration\] scale must be above 0"),
        ("scale = 1.5", "scael = 1.5", "did you mean 'scale'"),
        ("scale = 1.5", "", "the key 'scale' is missing"),
        ('dtype = "fp32"', 'dtype = "bf16"', "calibrated for bf16, which"),
        (", 0.7]", "]", "lists of 7 numbers"),
        (", 0.7]", ", 7e9]", "lists of 7 numbers"),
        ("interval = 1.25", "interval = 0.5", "a factor from 1 on, not 0.5"),
        ("error = 0.08", 'error = "x"', r"\[calibration\] error must be float"),
        ("a = 0.1", "a = 0", r"\[calibration\] measured\.'a' must be above 0"),
        ("bandwidth_bytes_per_s = 10000000000.0", "bandwidth_bytes_per_s = -1.0", "must be above 0"),
    ],
)
def test_a_broken_calibration_is_one_line(path: Path, before: str, after: str, says: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(DeviceError, match=says) as found:
        load_profile(path)
    assert "\n" not in str(found.value)


def test_a_forecast_has_the_interval_that_was_found(path: Path) -> None:
    work = Workload(spatial=(8, 8, 8), batch=2, threads=2)
    found = by_metric(predict([operator()], load_profile(path), work, 1000))
    latency = found["latency_s"]
    assert latency.value == pytest.approx(1.5 * (1e-5 + 1e-2), rel=0.05)  # the call itself is known: at its roof
    assert latency.interval == pytest.approx((latency.value / 1.25, latency.value * 1.25))
    assert latency.bound is None
    assert latency.origin == "predicted"
    assert latency.method.startswith("calibrated: 3 calls timed on this device (2 threads, fp32, eager, torch 2.13.0)")
    assert found["throughput_patches_per_s"].value == pytest.approx(2 / latency.value)


def test_an_operator_that_was_not_timed_is_named_and_widens_the_range(path: Path) -> None:
    strange = dataclasses.replace(operator("norm"), operator="native_group_norm")
    work = Workload(spatial=(8, 8, 8), threads=2)
    latency = by_metric(predict([operator(), strange], load_profile(path), work, None))["latency_s"]
    assert latency.value is not None
    assert latency.interval is not None
    assert latency.interval[1] / latency.value == pytest.approx(1.25 * 1.5)
    assert "1 kind of operators not timed there: native_group_norm, so the range" in latency.method


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"threads": 1}, "for 2 threads: 'bench calibrate --threads 1'"),
        ({"dtype": "bf16"}, "for fp32: 'bench calibrate --dty"),
    ],
)
def test_other_threads_or_another_type_are_refused_not_guessed(path: Path, asked: dict[str, object], says: str) -> None:
    work = dataclasses.replace(Workload(spatial=(8, 8, 8), threads=2), **asked)  # type: ignore[arg-type]
    latency = predict([operator()], load_profile(path), work, None)[0]
    assert latency.value is None
    assert says in str(latency.reason)


def test_a_machine_that_was_not_quiet_is_told(path: Path) -> None:
    path.write_text(path.read_text().replace("disturbed = 0", "disturbed = 2"))
    work = Workload(spatial=(8, 8, 8), threads=2)
    profile = load_profile(path)
    assert "not quiet when they were timed: 2 of 3 lay" in predict([operator()], profile, work, None)[0].method
    assert any("this machine was not quiet" in line for line in calibrate_command.summary(profile))


def test_another_torch_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Workload(spatial=(8, 8, 8), threads=2)
    monkeypatch.setattr("benchbench.devices.forecast.installed", lambda package: "2.14.0")
    assert "; here is torch 2.14.0" in predict([operator()], load_profile(path), work, None)[0].method


SLOWER = """
name = "slower"
title = "A slower board"
kind = "cpu"
core = "4 cores"
bandwidth_bytes_per_s = 5e9
reserve_bytes = 0
like = "me.toml"
[peaks]
fp32 = 1e11
[sources]
fp32 = "test"
bandwidth_bytes_per_s = "test"
reserve_bytes = "test"
"""


@pytest.fixture
def scaled(path: Path) -> Path:
    other = path.with_name("slower.toml")
    other.write_text(SLOWER)
    return other


def test_a_profile_like_a_calibrated_one_is_scaled_by_the_roofs(scaled: Path) -> None:
    profile = load_profile(scaled)
    assert profile.tier == "scaled"
    work = Workload(spatial=(8, 8, 8))
    latency = by_metric(predict([operator()], profile, work, None))["latency_s"]
    there = by_metric(predict([operator()], load_profile(scaled.with_name("me.toml")), work, None))["latency_s"]
    assert latency.value is not None
    assert there.value is not None
    assert latency.value == pytest.approx(2 * there.value, rel=0.01)  # half the peak, and arithmetic decides
    assert latency.interval == pytest.approx((latency.value / SCALED_FACTOR, latency.value * SCALED_FACTOR))
    assert latency.method.startswith("scaled: 3 calls timed on My processor, 2 threads, fp32 (2 threads, fp32, eager")
    assert "sum over operators" not in latency.method


def test_another_type_than_the_calibrated_one_has_the_data_sheet_alone(scaled: Path) -> None:
    text = scaled.read_text().replace("[peaks]", "[peaks]\nfp16 = 2e11").replace("[sources]", '[sources]\nfp16 = "a"')
    scaled.write_text(text)
    work = Workload(spatial=(8, 8, 8), dtype="fp16")
    latency = by_metric(predict([operator()], load_profile(scaled), work, None))["latency_s"]
    assert latency.method.startswith("datasheet: ")
    assert latency.bound == "at_least"
    profile = load_profile(scaled)
    assert (profile.tier_for("fp16"), profile.tier_for("fp32")) == ("datasheet", "scaled")
    assert "in fp32, scaled by both devices' peaks" in str(resolve(str(scaled)).banner)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('"me.toml"', '"you.toml"', "cannot read the device profile .*you.toml"),
        ('"me.toml"', '"slower.toml"', "must name another TOML file"),
        ('"me.toml"', '"jetson"', "must name another TOML file"),
        ('"me.toml"', '"round.toml"', "it is like 'slower.toml' itself"),
        ('"me.toml"', '"plain.toml"', "'plain.toml' has no calibration"),
        ("fp32 = 1e11", "fp16 = 1e11", "was calibrated for fp32, and .peaks. here lacks that"),
        ("reserve_bytes = 0", "reserve_bytes = 0\nlaunch_s = 0.0", "launch_s must be above 0"),
        ("reserve_bytes = 0", "reserve_bytes = 0\nlaunch_s = 1e-6", "lacks 'launch_s'"),
    ],
)
def test_what_cannot_be_scaled_is_one_line(scaled: Path, before: str, after: str, says: str) -> None:
    text = SLOWER.replace(before, after, 1).replace('fp32 = "test"', 'fp32 = "test"\nfp16 = "test"')
    scaled.write_text(text)
    scaled.with_name("round.toml").write_text(SLOWER.replace('"me.toml"', '"slower.toml"'))
    scaled.with_name("plain.toml").write_text(SLOWER.replace('like = "me.toml"\n', ""))
    with pytest.raises(DeviceError, match=says) as found:
        load_profile(scaled)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("asked", "has"), [((), 2), ((1,), 1)])
def test_the_cells_of_a_profile_have_its_threads(path: Path, asked: tuple[int, ...], has: int) -> None:
    request = RunRequest(models="slim_unetr", devices=(str(path),), threads=asked or (None,))
    (cell,) = runner_plan.plan_cells(request)
    assert cell.workload.threads == has


def test_the_banner_says_what_the_figures_are_from(path: Path) -> None:
    banner = resolve(str(path)).banner
    assert banner is not None
    assert banner.endswith("from operators that were timed on that device.")


def test_a_calibration_in_words() -> None:
    text = "\n".join(calibrate_command.summary(PROFILE))
    assert "forecasts of 2 networks, each without its own calls: 8.0% off on average" in text
    assert "farthest off: a +10%, b b -10%" in text
    assert "not quiet" not in text
    assert PROFILE.calibration
    loud = dataclasses.replace(PROFILE, calibration=dataclasses.replace(PROFILE.calibration, disturbed=1))
    assert "this machine was not quiet" in "\n".join(calibrate_command.summary(loud))


def test_devices_are_listed_with_their_tiers_and_own_calibrations(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "local"
    folder.mkdir(parents=True)
    path.replace(folder / "me.toml")
    (folder / "broken.toml").write_text("name =")
    rows = {row["name"]: row for row in list_command.devices()}
    assert rows["results/local/me.toml"]["basis"] == "predicted, calibrated"
    assert rows["rtx-4090"]["basis"] == "predicted, datasheet"
    assert not any("broken" in name for name in rows)


def test_a_profile_that_was_changed_forecasts_anew(scaled: Path, tmp_path: Path) -> None:
    from benchbench.runner.run import run
    from tests.runner.test_run import Heard

    request = RunRequest(models="unet_small", devices=(str(scaled),), spatial=(32, 32, 32), data="none")
    (first,) = run(request, tmp_path / "out", progress=Heard()).records  # type: ignore[arg-type]
    assert run(request, tmp_path / "out", progress=Heard()).reused == 1  # type: ignore[arg-type]
    scaled.write_text(scaled.read_text().replace("fp32 = 1e11", "fp32 = 2e9"))
    (second,) = run(request, tmp_path / "out", progress=Heard()).records  # type: ignore[arg-type]
    assert second.value("latency_s") > 2 * first.value("latency_s")
    assert "My processor" in str(first.environment["scaled"])
    assert "operators timed on another device (My processor" in render([first], lambda artifact: b"")


def test_the_largest_cache_is_read_where_the_system_tells(tmp_path: Path) -> None:
    assert cpu.last_cache_bytes(tmp_path) == 32 << 20
    for index, size in enumerate(("32K", "1M", "12288K")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert cpu.last_cache_bytes(tmp_path) == 12 << 20


@pytest.mark.slow
def test_the_command_makes_a_profile_that_a_run_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = microbenchmarks.calls()[:20]
    monkeypatch.setattr(microbenchmarks, "calls", lambda dtype: few)
    monkeypatch.setattr(zoo_cards, "find_cards", lambda names: SMALL)
    monkeypatch.setattr(cpu, "set_affinity", lambda cores: None)  # this process is to go on with all of its cores
    monkeypatch.setattr(cpu, "last_cache_bytes", lambda: 1 << 20)  # that of a server takes a second to fill, each time
    replay._other.cache_clear()
    monkeypatch.setattr(calibrate, "_CALL_ROUNDS", 1)
    monkeypatch.setattr(calibrate, "_NETWORK_ROUNDS", 1)
    code = main(["calibrate", "--time", "10min", "--threads", "1", "-q"])
    replay._other.cache_clear()
    out, err = capsys.readouterr()
    assert code == 0, err
    path = Path("results/local/cpu-1-threads-fp32.toml")
    assert f"Next, to forecast with it: bench run --models all --device {path}" in out
    assert "the worst of only 3" in out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    asked = ["run", "--models", "unet_small", "--spatial", "32", "32", "32", "--device", str(path), "--data", "none"]
    assert main([*asked, "--out", "out", "-q"]) == 0
    shown = capsys.readouterr().out
    assert "a prediction for the" in shown
    assert "from operators that were timed on that device" in shown
    row = shown.partition("unet_small")[2].partition("[P]")[0]
    assert re.search(r"at least [\d.]+ [kMG]?B", row)  # memory
    assert not re.search(r"at least [\d.]+ [mµ]?s\b", row)


SMALL = [
    dataclasses.replace(zoo_cards.get_card(name), spatial=(32, 32, 32))
    for name in ("slim_unetr", "slim_unetr_fixed", "unet_small")
]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--out", "a.json"], "must end in .toml"),
        (["--device", "cpu", "--models", "slim_unetrr"], "did you mean 'slim_unetr'"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(
    asked: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "set_affinity", lambda cores: None)
    with contextlib.suppress(SystemExit):
        assert main(["calibrate", *asked]) == 2
    assert says in capsys.readouterr().err
