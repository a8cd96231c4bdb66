"""`bench import` of a file of weights: what is taken, what is refused, and that nothing in it is ever run."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchbench.cli.main import main
from benchbench.core.errors import CheckpointError, StoreError, UsageError
from benchbench.training.recipe import TrainRequest, parse_budget
from benchbench.training.run import prepare
from benchbench.zoo import cards, checkpoint, foreign_weights
from benchbench.zoo.build import build_model
from benchbench.zoo.import_network import Imported, ImportRequest, import_network, keywords_of
from tests import data_sets
from tests.tiny_nets import Tiny

ARCH = "tests.tiny_nets:Tiny"


def weights(width: int = 2, **channels: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return Tiny(width=width, **channels).state_dict()


def saved(path: Path, content: Any, **more: Any) -> Path:
    torch.save(content, path, **more)
    return path


def imported(source: Path, out: Path, **more: Any) -> Imported:
    return import_network(ImportRequest(source=source, **{"arch": ARCH, **more}), out)


def same(path: Path, state: dict[str, torch.Tensor]) -> bool:
    module = build_model(str(path), trust=True)
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("key", foreign_weights.KEYS)
def test_weights_are_found_under_the_keys_that_trainings_use(tmp_path: Path, key: str) -> None:
    state = weights()
    losses = {"epoch": 3, "losses": [np.float64(0.5), np.float32(1), np.bool_(True), np.int64(4)]}
    result = imported(saved(tmp_path / "my.pt", {key: state, **losses}), tmp_path / "mine")
    assert result.info.model.name == "mine"
    assert same(result.info.path, state)


def test_the_file_itself_may_be_the_weights_and_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights(), tmp_path / "my.safetensors")
    assert same(imported(tmp_path / "my.safetensors", tmp_path / "a").info.path, weights())
    old = saved(tmp_path / "old.pth", weights(), _use_new_zipfile_serialization=False)
    assert same(imported(old, tmp_path / "b").info.path, weights())


def test_the_prefixes_of_wrappers_are_stripped_with_a_note(tmp_path: Path) -> None:
    state = {f"module._orig_mod.{name}": value for name, value in weights().items()}
    result = imported(saved(tmp_path / "my.pt", state), tmp_path / "mine")
    assert same(result.info.path, weights())
    assert sum("was stripped" in note for note in result.notes) == 2
    assert result.info.train["imported"]["notes"] == list(result.notes)


def test_a_prefix_that_is_the_networks_own_stays(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Conv3d(1, 1, 1)

    module = Wrapped()
    state = {f"model.{name}": value + 1 for name, value in module.state_dict().items()}
    wanted = state["model.model.bias"].clone()
    assert foreign_weights.load_into(module, state, tmp_path) == ["'model.' was stripped from the names of 2 weights"]
    assert torch.equal(module.model.bias, wanted)
    assert foreign_weights.load_into(module, module.state_dict(), tmp_path) == []


def test_of_several_keys_the_first_is_taken_with_a_note_and_key_takes_another(tmp_path: Path) -> None:
    average = {name: value + 1 for name, value in weights().items()}
    path = saved(tmp_path / "my.pt", {"state_dict": weights(), "ema": {"state_dict": average}})
    result = imported(path, tmp_path / "a")
    assert same(result.info.path, weights())
    assert "others under 'ema'" in result.notes[0]
    assert same(imported(path, tmp_path / "b", key="ema").info.path, average)
    with pytest.raises(CheckpointError, match="unknown key 'emma': did you mean 'ema'"):
        imported(path, tmp_path / "c", key="emma")


def test_weights_that_do_not_fit_are_listed_five_of_each_kind_and_how_many(tmp_path: Path) -> None:
    state = weights(width=3)
    del state["body.1.bias"]
    state |= {f"extra{i}": torch.ones(1) for i in range(7)}
    with pytest.raises(CheckpointError) as caught:
        imported(saved(tmp_path / "my.pt", state), tmp_path / "mine")
    text = str(caught.value)
    assert "1 of its 4 entries are missing (body.1.bias)" in text
    assert "7 are not of it (extra0, extra1, extra2, extra3, extra4 and 2 more)" in text
    assert "3 have another shape (body.0.weight (3, 4, 3, 3, 3) for (2, 4, 3, 3, 3)" in text
    assert "\n" not in text
    assert not (tmp_path / "mine").exists()


class Touches:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_a_pickle_with_code_is_refused_by_name_and_never_run(tmp_path: Path, form: str) -> None:
    mark, path = tmp_path / "run", tmp_path / "evil.pt"
    content = {"state_dict": weights(), "loss": Touches(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"loss": Touches(mark)}))
    else:
        saved(path, content, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=rf"holds more than weights \({os.system.__module__}\.system\)") as caught:
        imported(path, tmp_path / "mine")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not mark.exists()
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (Tiny(), r"tests\.tiny_nets\.Tiny"),
        ({"state_dict": {}, "args": argparse.Namespace(lr=1)}, r"argparse\.Namespace"),
        ({"state_dict": weights(), "loss": Path}, r"pathlib\.Path"),
    ],
)
def test_whole_networks_and_other_objects_are_refused_by_name(tmp_path: Path, content: Any, what: str) -> None:
    with pytest.raises(CheckpointError, match=what):
        imported(saved(tmp_path / "my.pt", content), tmp_path / "mine")


def test_torchscript_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Conv3d(1, 1, 1)), str(script))
    torn = saved(tmp_path / "torn.pt", weights())
    torn.write_bytes(torn.read_bytes()[:500])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pt").write_text("hello, these are no weights")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name, match in {
        "script.pt": "TorchScript",
        "torn.pt": "damaged",
        "empty.pth": "damaged",
        "text.pt": "damaged",
        "torn.safetensors": "damaged",
        "none.pt": "no such file",
    }.items():
        with pytest.raises(CheckpointError, match=match) as caught:
            imported(tmp_path / name, tmp_path / "mine")
        assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = weights()
    state["body.0.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"body\.0\.bias holds NaN"):
        imported(saved(tmp_path / "my.pt", state), tmp_path / "mine")


def test_half_precision_is_kept_in_float32_with_a_note(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in weights().items()}
    result = imported(saved(tmp_path / "my.pt", state), tmp_path / "mine")
    assert "weights in float16 are kept in float32" in result.notes


def test_a_file_without_weights_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no state dict \(it has epoch, loss\)"):
        imported(saved(tmp_path / "my.pt", {"epoch": 1, "loss": 0.5}), tmp_path / "mine")


def test_a_network_of_the_zoo_is_named_by_its_card(tmp_path: Path) -> None:
    module = build_model("nnunet", in_channels=1, out_channels=2, spatial=(32, 32, 64), filters=[4, 8, 8, 8, 8, 8])
    path = saved(tmp_path / "my.pt", module.state_dict())
    result = imported(
        path,
        tmp_path / "mine",
        arch="nnunet",
        kwargs=("filters=[4,8,8,8,8,8]",),
        in_channels=1,
        out_channels=2,
        spatial=(32, 32, 64),
    )
    again = build_model(str(tmp_path / "mine"))
    x = torch.rand(1, 1, 32, 32, 64)
    assert torch.equal(again.eval()(x), module.eval()(x))
    assert cards.find_cards(str(tmp_path / "mine"))[0].checkpoint == str(result.info.path)


def test_keywords_are_json_or_text() -> None:
    given = ("width=8", "filters=[1, 2]", "norm=batch", "deep=True", "name=a=b")
    assert keywords_of(given) == {"width": 8, "filters": [1, 2], "norm": "batch", "deep": True, "name": "a=b"}
    with pytest.raises(UsageError, match="not like width=32"):
        keywords_of(("width",))


def test_without_arch_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--arch"):
        imported(saved(tmp_path / "my.pt", weights()), tmp_path / "mine", arch=None)


def test_a_finished_import_is_replaced_by_force_alone_and_another_network_never(tmp_path: Path) -> None:
    path, out = saved(tmp_path / "my.pt", weights()), tmp_path / "mine"
    imported(path, out)
    with pytest.raises(StoreError, match="--force"):
        imported(path, out)
    import_network(ImportRequest(source=path, arch=ARCH), out, force=True)
    with pytest.raises(StoreError, match="another network already"):
        import_network(ImportRequest(source=path, arch=ARCH, name="other"), out, force=True)


def test_on_its_data_it_can_predict_and_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=12)
    path = saved(tmp_path / "my.pt", weights(in_channels=1))
    out = tmp_path / "mine"
    assert main(["import", str(path), "--arch", ARCH, "--data", str(folder), "--out", str(out)]) == 0
    info = checkpoint.read_sidecar(out)
    assert (info.model.in_channels, info.model.out_channels) == (1, 3)
    assert info.plan is not None
    assert info.train["cases"]
    image = next((folder / "imagesTr").iterdir())
    written = tmp_path / "seg.nii.gz"
    assert main(["predict", str(out), "--trust", "--input", str(image), "--output", str(written)]) == 0
    assert written.exists()

    steps = parse_budget("1step")
    training = prepare(
        TrainRequest(model=ARCH, init=out, data=str(folder), budget=steps, more={"validations": 0, "lr": 1e-9})
    )
    result = training.run(tmp_path / "trained")
    assert result.checkpoint.train["start"] == info.sha256
    kept = dict(build_model(str(result.checkpoint.path), trust=True).state_dict())
    assert all(torch.allclose(value, kept[name], atol=1e-6) for name, value in weights(in_channels=1).items())
    with pytest.raises(UsageError, match="is trained already: --init"):
        prepare(TrainRequest(model=str(out), data=str(folder)))


def test_a_folder_of_several_networks_is_not_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "my.pt", weights())
    imported(path, tmp_path / "mine")
    other = imported(path, tmp_path / "other").info.path
    (tmp_path / "mine" / "b.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match="several networks"):
        checkpoint.read_sidecar(tmp_path / "mine")
    with pytest.raises(UsageError, match="is a folder: name one of the networks in it"):
        cards.find_cards(str(tmp_path / "mine"))
