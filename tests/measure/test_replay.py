"""Operators of a forward, run again alone; and what is learned of a device from those that were timed."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from benchbench.core.errors import DeviceError, StoreError, UsageError
from benchbench.core.records import METRIC_UNITS, Measurement, ModelSpec, OperatorCost
from benchbench.devices.latency_model import Efficiency, Roofs, check, interval_factor, roofs_of
from benchbench.measure.operators import microbenchmarks, replay
from benchbench.runner import calibrate
from benchbench.runner.calibration_journal import CalibrationJournal
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import classes


def cost(kind: str = "conv", macs: int = 10**9, moved: int = 10**7, kernel: int = 27) -> OperatorCost:
    half = moved // 2
    return OperatorCost(
        operator="convolution",
        kind=kind,
        module="",
        macs=macs,
        read_bytes=half,
        written_bytes=half,
        output_shape=(half // 4,),
        kernel=kernel,
    )


def test_every_call_of_a_forward_can_be_made_again() -> None:
    net = nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.GELU(), nn.Conv3d(4, 4, 3, groups=4, padding=1),
        nn.ConvTranspose3d(4, 2, 2, stride=2), nn.InstanceNorm3d(2), nn.BatchNorm3d(2), nn.Flatten(),
        nn.Linear(2 * 16**3, 3), nn.LayerNorm(3), nn.Softmax(-1),
    )  # fmt: skip
    found, _ = replay.calls_of(net, (1, 2, 8, 8, 8))
    kinds = [one.cost.kind for one in found]
    assert [k for k in kinds if "conv" in k] == ["conv", "depthwise_conv", "transposed_conv"]
    assert "norm" in kinds
    assert "matmul" in kinds
    for one in found:
        made = replay.ready(one)[0]()
        values = made if isinstance(made, (list, tuple)) else [made]
        assert all(value.isfinite().all() for value in values if value is not None)
        assert replay.time_call(one, least_s=0.0) > 0
    first = next(one for one in found if one.cost.kind == "conv")
    assert first.cost.macs == 2 * 4 * 27 * 8**3
    assert first.cost.kernel == 27


def test_weights_are_told_from_activations_and_what_is_changed_in_place_stays_a_number() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x).mul_(x)

    matrix, product = replay.calls_of(Net(), (1, 2, 4, 4, 4))[0]
    assert matrix.arguments.count('"weight"') == 2  # the bias, and the turned matrix, which is a view
    assert matrix.arguments.count('"tensor"') == 1
    assert '"weight"' not in product.arguments
    run, activations = replay.ready(product)
    for _ in range(300):
        changed = run()
    assert changed.min() == 1.0
    assert len(activations) == 2
    assert len(replay.ready(matrix)[1]) == 1


def test_the_common_kinds_are_among_the_microbenchmarks() -> None:
    found = microbenchmarks.calls()
    assert {call.cost.kind for call in found} == {
        "conv", "depthwise_conv", "transposed_conv", "matmul", "norm", "copy", "elementwise",
    }  # fmt: skip
    assert {1, 8, 27, 125, 343} <= {call.cost.kernel for call in found}
    named = {call.cost.operator for call in found}
    assert {"bmm", "addmm", "native_layer_norm", "_softmax", "cat", "add", "constant_pad_nd"} <= named
    assert min(call.cost.moved_bytes for call in found) <= 16  # an empty launch
    assert len({call.key for call in found}) == len(found) > 200


def test_the_same_work_is_one() -> None:
    net = nn.Sequential(*[nn.Conv3d(2, 2, 3, padding=1) for _ in range(3)])
    found, _ = replay.calls_of(net, (1, 2, 8, 8, 8))
    assert len(found) == 3
    assert len(list(replay.different(found))) == 1


def test_a_view_has_the_strides_of_a_real_forward() -> None:
    class Tokens(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x.flatten(2).transpose(1, 2).contiguous()
            return nn.functional.interpolate(tokens.transpose(1, 2).reshape(1, 2, 4, 4, 4), scale_factor=2.0)

    *_, last = replay.calls_of(Tokens(), (1, 2, 4, 4, 4))[0]
    assert last.cost.operator.startswith("upsample")
    real = torch.rand(1, 64, 2).transpose(1, 2).reshape(1, 2, 4, 4, 4).stride()
    assert real[0] == 2  # as fake tensors do not have it
    assert f"[[1,2,4,4,4],{list(real)}".replace(" ", "") in last.arguments


def test_a_transposed_view_keeps_its_strides() -> None:
    class Turned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.transpose(1, 2).contiguous() + 1

    (copy, add), _ = replay.calls_of(Turned(), (1, 2, 8, 8, 8))
    assert copy.cost.kind == "copy"
    assert replay.ready(copy)[0]().shape == (1, 8, 2, 8, 8)
    assert add.cost.kind == "elementwise"


def test_the_roof_is_the_larger_of_compute_and_memory() -> None:
    roofs = Roofs(macs_per_s=1e10, bytes_per_s=1e9, launch_s=1e-5)
    assert roofs.seconds(cost(macs=10**9, moved=10**7)) == pytest.approx(1e-5 + 0.1)
    assert roofs.seconds(cost(macs=10**6, moved=10**8)) == pytest.approx(1e-5 + 0.1)


def test_the_roofs_are_the_best_that_was_seen() -> None:
    timed = [(cost(macs=10**9, moved=10**6), 0.1), (cost("copy", 0, 10**8), 0.05)]
    assert roofs_of(timed) == Roofs(macs_per_s=1e10, bytes_per_s=2e9, launch_s=0.05)
    assert roofs_of(timed, 3e10, 1e9) == Roofs(macs_per_s=3e10, bytes_per_s=1e9, launch_s=0.05)  # measured
    assert roofs_of(timed, 9e9).macs_per_s == 1e10  # a call was faster
    with pytest.raises(ValueError, match="no call with arithmetic"):
        roofs_of([(cost("copy", 0, 10**8), 0.05)])


ROOFS = Roofs(macs_per_s=1e10, bytes_per_s=1e10, launch_s=0.0)


def model() -> Efficiency:
    timed = [(cost(macs=m), 2 * m / 1e10) for m in (10**8, 10**9, 10**10)]
    timed += [(cost("norm", 0, b, 1), 5 * b / 1e10) for b in (10**6, 10**7, 10**8)]
    return Efficiency.learn(timed, ROOFS)


def test_a_call_that_was_not_timed_is_as_far_from_its_roof_as_its_like() -> None:
    learned = model()
    assert learned.seconds([cost(macs=3 * 10**9)]) == pytest.approx(0.6, rel=0.01)
    assert learned.seconds([cost("norm", 0, 3 * 10**7, 1)]) == pytest.approx(0.015, rel=0.01)
    assert learned.seconds([cost("norm", 0, 3 * 10**7, 1)] * 4) == pytest.approx(0.06, rel=0.01)
    assert learned.strange([cost(macs=3 * 10**9)]) == []
    assert learned.strange([cost("attention")]) == ["convolution"]
    assert learned.strange([cost(macs=3 * 10**13, moved=10**11)]) == ["convolution of such a size"]


def test_a_trend_leads_beyond_what_was_timed_and_not_far_beyond() -> None:
    timed = [(cost(macs=m), (m / 1e10) * (m / 1e8) ** -0.2) for m in (10**8, 3 * 10**8, 10**9, 3 * 10**9, 10**10)]
    learned = Efficiency.learn(timed, ROOFS)
    beyond = learned.seconds([cost(macs=3 * 10**10)])
    assert beyond < 3.0 * 100**-0.2  # better still than the best, at 10 GMAC
    far = cost(macs=10**16)
    assert learned.seconds([far]) / ROOFS.seconds(far) == pytest.approx(100**-0.2 * math.exp(-0.5), rel=0.05)


def test_a_strided_input_is_another_call() -> None:
    plain = [(cost("copy", 0, b, 1), b / 1e10) for b in (10**6, 10**7, 10**8)]
    turned = [(dataclasses.replace(one, strided=True), 8 * seconds) for one, seconds in plain]
    learned = Efficiency.learn([*plain, *turned], ROOFS)
    fast, slow = (
        learned.seconds([dataclasses.replace(cost("copy", 0, 3 * 10**7, 1), strided=s)]) for s in (False, True)
    )
    assert slow / fast == pytest.approx(8, rel=0.3)


def test_another_device_is_as_near_to_its_roofs() -> None:
    faster = Roofs(macs_per_s=4e10, bytes_per_s=1e10, launch_s=0.0)
    assert model().seconds([cost(macs=3 * 10**9)], on=faster) == pytest.approx(0.15, rel=0.01)


def test_those_that_make_most_of_its_calls_are_left_out_with_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = {name: [(f"{name}{i}", cost(macs=(3 + i) * 10**8)) for i in range(3)] for name in "abcd"}
    networks["d"] = [(f"d{i}", cost(macs=(30 + i) * 10**8)) for i in range(3)]  # larger than all others
    networks["twin"] = [*networks["d"], ("more", cost(macs=10**8))]
    timed = {key: (one, one.macs / 1e10) for own in networks.values() for key, one in own}
    for key, one in networks["d"]:
        timed[key] = (one, 3 * one.macs / 1e10)  # three times as slow as it looks, which its twin knows
    measured = {name: sum(timed[key][1] for key, _ in own) for name, own in networks.items()}
    left_out = check(networks, timed, measured).ratios["d"]
    assert left_out == pytest.approx(1 / 3, rel=0.2)
    monkeypatch.setattr("benchbench.devices.latency_model._KIN", 1.1)
    assert check(networks, timed, measured).ratios["d"] > 1.1 * left_out  # its twin gives it away


def test_a_network_left_out_is_forecast_from_the_others_alone() -> None:
    networks = {name: [(f"{name}{i}", cost(macs=(3 + i) * 10**8)) for i in range(3)] for name in "abcd"}
    timed = {key: (one, one.macs / 1e10) for own in networks.values() for key, one in own}
    networks["d"].append(("odd", cost("attention", macs=10**8)))
    timed["odd"] = (networks["d"][-1][1], 1000.0)  # its own 1000 s `d` does not know
    measured = {name: 2 * 1.2e9 / 1e10 for name in networks}
    found = check(networks, timed, measured)
    assert [found.ratios[name] for name in "abc"] == pytest.approx([1.0] * 3, rel=0.01)
    assert 1.0 < found.ratios["d"] < 1.5  # one call more, as far from the roofs as the others
    assert found.scale == pytest.approx(2.0, rel=0.01)
    with pytest.raises(ValueError, match="2 networks are too few"):
        check(networks, timed, {name: measured[name] for name in "ab"})


def test_the_interval_holds_what_it_says() -> None:
    ratios = [math.exp(0.01 * i * (-1) ** i) for i in range(1, 20)]
    assert interval_factor(ratios, 0.9) == pytest.approx(math.exp(0.18))
    assert interval_factor([1.1, 0.9], 0.9) == pytest.approx(1 / 0.9)


# -- a calibration


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[calibrate.Network]:
    found = []
    for width in (2, 3, 4):
        net = nn.Sequential(nn.Conv3d(1, width, 3, padding=1), nn.GELU(), nn.Conv3d(width, 2, 1))
        spec = ModelSpec(name=f"w{width}", arch="x:y", kwargs={}, in_channels=1, out_channels=2)
        calls, _ = replay.calls_of(net, (1, 1, 8, 8, 8))
        found.append(calibrate.Network(spec=spec, spatial=(8, 8, 8), calls=tuple(calls)))
    monkeypatch.setattr(calibrate, "time_network", lambda network, setting: 0.01 * len(network.spec.name))
    monkeypatch.setattr(calibrate.microbenchmarks, "calls", lambda dtype: BASICS())
    monkeypatch.setattr(calibrate, "measure_peak", lambda dtype, **_: [roof("peak_macs_per_s", 7e9), TRIAD])
    return found


def roof(metric: str, value: float) -> Measurement:
    return Measurement(metric=metric, unit=METRIC_UNITS[metric], value=value, origin="measured", method="test")


TRIAD = roof("memory_bandwidth_bytes_per_s", 3e9)


def BASICS() -> list[replay.Call]:
    return replay.calls_of(nn.ReLU(), (1, 1, 2, 2, 2))[0]


def test_a_calibration_goes_on_where_it_was(
    networks: list[calibrate.Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = replay.time_call

    def timed(call: replay.Call, *, device: str) -> float:
        made.append(call.key)
        if len(made) == 4:
            raise KeyboardInterrupt
        return real(call, device=device, least_s=0.0)

    monkeypatch.setattr(calibrate.replay, "time_call", timed)
    with pytest.raises(KeyboardInterrupt):
        calibrate.calibrate(networks, calibrate.Setting(threads=1), tmp_path / "me.toml")
    monkeypatch.setattr(calibrate, "_CALLS_SHARE", 1.0)
    profile = calibrate.calibrate(networks, calibrate.Setting(threads=1), tmp_path / "me.toml")
    different = {call.key for call in [*BASICS(), *(call for own in networks for call in own.calls)]}
    assert set(made) == different
    assert len(made) == 3 * len(different) + 1  # the broken one once more, nothing else
    assert profile.calibration is not None
    assert profile.calibration.calls == len(different)
    assert profile.calibration.repeated == len(different)
    assert set(profile.calibration.ratios) == {"w2", "w3", "w4"}
    assert profile.peaks["fp32"] >= 2 * 7e9
    assert profile.bandwidth_bytes_per_s == 3e9


def test_want_of_memory_is_no_fault_and_a_lost_gpu_ends_it(tmp_path: Path) -> None:
    def raises(error: Exception) -> float:
        raise error

    journal = CalibrationJournal(tmp_path / "a.ndjson", "one")
    journal.add("big", lambda: raises(RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")))
    assert (journal.no_room, journal.failed) == ({"big"}, {})
    journal.add("big", lambda: 1.0)
    assert journal.no_room == set()
    with pytest.raises(DeviceError, match="the GPU failed while x was timed: CUDA error: an illegal"):
        journal.add("x", lambda: raises(RuntimeError("CUDA error: an illegal memory access\nmore")))
    assert CalibrationJournal(tmp_path / "a.ndjson").failed == {}


def test_calls_that_a_network_no_longer_makes_count_for_nothing(
    networks: list[calibrate.Network], tmp_path: Path
) -> None:
    calibrate.calibrate(networks, calibrate.Setting(threads=1), tmp_path / "me.toml")
    changed = [dataclasses.replace(networks[0], calls=networks[0].calls[:1]), *networks[1:]]
    profile = calibrate.calibrate(changed, calibrate.Setting(threads=1), tmp_path / "me.toml")
    assert profile.calibration is not None
    assert profile.calibration.calls == len({c.key for own in changed for c in own.calls} | {c.key for c in BASICS()})


def test_a_network_that_cannot_be_traced_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "benchbench")  # a command with --quiet in this process has set another
    cards = zoo_cards.find_cards("slim_unetr,slim_unetr_fixed,unet_small")
    cards = [dataclasses.replace(card, spatial=(32, 32, 32)) for card in cards]
    refused = dataclasses.replace(zoo_cards.get_card("swin_unetr"), spatial=(20, 20, 20))
    found = calibrate.networks_of([refused, *cards], "fp32")
    assert [own.spec.name for own in found] == ["slim_unetr", "slim_unetr_fixed", "unet_small"]
    assert "swin_unetr is left out: " in caplog.text
    assert all(own.peak_bytes > 0 and own.calls for own in found)
    with pytest.raises(UsageError, match="name 3 or more with --models"):
        calibrate.networks_of(cards[:2], "fp32")


def test_two_at_once_are_refused(networks: list[calibrate.Network], tmp_path: Path) -> None:
    from benchbench.core.results import lock

    held = lock(tmp_path)
    assert held is not None
    with pytest.raises(StoreError, match="in use by another run"):
        calibrate.calibrate(networks, calibrate.Setting(threads=1), tmp_path / "me.toml")
    os.close(held)


def test_a_journal_alone_tells_what_the_profile_says(networks: list[calibrate.Network], tmp_path: Path) -> None:
    profile = calibrate.calibrate(networks, calibrate.Setting(threads=1), tmp_path / "me.toml")
    learned, checked = calibrate.checked(CalibrationJournal(tmp_path / "me.ndjson"))
    assert profile.calibration is not None
    assert dict(profile.calibration.ratios) == pytest.approx(dict(checked.ratios))
    assert learned.roofs.bytes_per_s == profile.bandwidth_bytes_per_s == 3e9
    assert CalibrationJournal(tmp_path / "me.ndjson").measured() == profile.calibration.measured
    with pytest.raises(StoreError, match="take one of 'bench calibrate'"):
        CalibrationJournal(tmp_path / "none.ndjson")


def test_what_cannot_be_timed_is_kept_as_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "benchbench")  # a command with --quiet in this process has set another

    def fails() -> float:
        raise RuntimeError("ZeroDivisionError\nand more")

    journal = CalibrationJournal(tmp_path / "a.ndjson", "one")
    journal.add("bad", fails)
    journal.add("good", lambda: 2.0)
    with open(tmp_path / "a.ndjson", "a") as file:
        file.write('{"key": "cut o')  # killed while it was written
    again = CalibrationJournal(tmp_path / "a.ndjson", "one")
    assert (again.known, again.failed) == ({"good": [2.0]}, {"bad": "ZeroDivisionError"})
    again.add("more", lambda: 1.0)
    assert set(CalibrationJournal(tmp_path / "a.ndjson", "one").known) == {"good", "more"}
    assert "not timed: bad: ZeroDivisionError" in caplog.text


def test_times_of_another_setting_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "benchbench")  # a command with --quiet in this process has set another
    first = CalibrationJournal(tmp_path / "a.ndjson", "one")
    first.add("x", lambda: 1.0)
    assert CalibrationJournal(tmp_path / "a.ndjson", "one").known == {"x": [1.0]}
    assert CalibrationJournal(tmp_path / "a.ndjson", "two").known == {}
    assert "set aside as .old" in caplog.text
    (tmp_path / "b.ndjson").write_text("no JSON\n{}\n")
    with pytest.raises(StoreError, match="choose another --out"):
        CalibrationJournal(tmp_path / "b.ndjson", "one")


def tiny(name: str) -> ModelSpec:
    return ModelSpec(name=name, arch=f"tests.tiny_nets:{name}", kwargs={}, in_channels=4, out_channels=3)


def test_a_network_is_timed_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])

    def timed(name: str) -> float:
        classes.allow_import(tiny(name).arch)
        network = calibrate.Network(spec=tiny(name), spatial=(8, 8, 8), calls=())
        return calibrate.time_network(network, calibrate.Setting(threads=1))

    assert timed("Tiny") > 0
    with pytest.raises(RuntimeError, match="Error"):
        timed("Crashes")
    with pytest.raises(RuntimeError, match="killed by SIGKILL, most likely for want of memory"):
        timed("Killed")
