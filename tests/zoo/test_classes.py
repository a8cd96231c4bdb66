"""A user's own classes: only those that a person has named are imported, and what cannot be a network is told."""

import json
import subprocess
import sys

import pytest
import torch

from benchbench.cli.main import main
from benchbench.core import launch
from benchbench.core import records as rec
from benchbench.core.errors import BenchError, CardError, CheckpointError, ShapeError, UsageError
from benchbench.measure.flops.audit import audit
from benchbench.measure.flops.first_layer import channels_refused
from benchbench.runner import worker
from benchbench.runner.in_process import measure_module
from benchbench.runner.job import Job
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, classes

OWN = """
from pathlib import Path

import torch

Path(r"{mark}").write_text("imported")


class MyNet(torch.nn.Conv3d):
    def __init__(self, in_channels=1, out_channels=2):
        super().__init__(in_channels, out_channels, 1)


def make(**kwargs):
    Path(r"{called}").write_text("called")


class Plain:
    def __init__(self, **kwargs):
        Path(r"{called}").write_text("called")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with `ownnets.py`, whose import leaves `mark` and whose calls leave `called`; nothing is vouched for."""
    monkeypatch.setattr(classes, "_named", set())
    monkeypatch.setattr(classes, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name == "ownnets"]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "nets"
    folder.mkdir()
    text = OWN.format(mark=tmp_path / "mark", called=tmp_path / "called")
    (folder / "ownnets.py").write_text(text)
    monkeypatch.chdir(folder)
    yield folder
    sys.modules.pop("ownnets", None)


def weights(path, arch, state=None):
    spec = rec.ModelSpec(name="own", arch=arch, in_channels=1, out_channels=2, kwargs={})
    state = state or torch.nn.Conv3d(1, 2, 1).state_dict()
    checkpoint.save(path, state, model=spec, data="phantom", spatial=(8, 8, 8), train={})
    return path


def card(path, arch):
    path.write_text(f'name = "own"\ntitle = "Own"\narch = "{arch}"\nin_channels = 1\nout_channels = 2\n')
    return path


@pytest.mark.parametrize("arch", ["os:system", "subprocess:Popen", "ownnets:make", "ownnets:Plain"])
def test_what_a_card_names_that_is_no_network_is_refused_and_not_called(own, tmp_path, arch):
    with pytest.raises(CardError, match=r"no(t a)? subclass of torch\.nn\.Module"):
        zoo_build.build_model(str(card(tmp_path / "own.toml", arch)))
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("arch", ["os:system", "subprocess:Popen", "ownnets:make", "ownnets:Plain", "ownnets:MyNet"])
def test_what_weights_name_is_not_even_imported(own, tmp_path, arch, capsys):
    path = weights(tmp_path / "own.safetensors", arch)
    with pytest.raises(CardError, match=r"not part of benchbench.*--trust"):
        zoo_build.build_model(str(path))
    assert main(["audit", "--models", str(path)]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "called").exists()
    assert "ownnets" not in sys.modules


@pytest.mark.parametrize("arch", ["os:system", "ownnets:make", "ownnets:Plain"])
def test_trust_does_not_make_a_network_of_what_is_none(own, tmp_path, arch):
    with pytest.raises(CardError, match=r"no(t a)? subclass of torch\.nn\.Module"):
        zoo_build.build_model(str(weights(tmp_path / "own.safetensors", arch)), trust=True)
    assert not (tmp_path / "called").exists()


def test_weights_of_an_own_class_are_read_where_they_are_trusted(own, tmp_path):
    path = weights(own / "own.safetensors", "ownnets:MyNet")
    assert type(zoo_build.build_model(str(path), trust=True)).__name__ == "MyNet"
    assert (tmp_path / "mark").exists()


def test_a_class_is_found_beside_its_card(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = zoo_cards.find_cards(str(card(own / "own.toml", "ownnets:MyNet")))[0]
    assert type(zoo_build.build(found.spec(), (8, 8, 8))).__name__ == "MyNet"


def test_a_library_s_name_in_the_current_folder_is_not_imported_by_a_process_of_ours(tmp_path):
    for name in ("numpy", "psutil", "json"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w').close()\nraise SystemExit('taken')\n")
    job = Job(
        model=zoo_cards.Card(name="n", title="N", arch="torch.nn:Identity").spec(),
        workload=rec.Workload(spatial=(4, 4, 4)),
    )
    request = json.dumps({"task": "count", "jobs": [rec.to_json(job)]}) + "\n"
    with subprocess.Popen(
        launch.command("benchbench.runner.worker"), cwd=tmp_path, env=launch.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        child.stdin.write(request)
        child.stdin.flush()  # and left open, as a worker ends with the process that feeds it
        events = [json.loads(line)["event"] for line in child.stdout]
    assert events == ["begin", "cost", "done"]
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is a folder"),
        ("net.pt", "is a pickle of PyTorch"),
        ("net.pth", "is a pickle of PyTorch"),
        ("net.onnx", "is an ONNX file"),
        ("net.zip", "is an archive"),
        ("net.json", "is JSON"),
        ("net.txt", "is a file of another kind"),
        ("missing/net", "no such file or folder"),
        ("missing.pth", "no such file or folder"),
    ],
)
def test_what_is_no_network_is_told_by_its_kind(tmp_path, name, message, capsys):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif "missing" not in name:
        path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError) as caught:
        zoo_cards.find_cards(str(path))
    assert message in str(caught.value)
    assert main(["audit", "--models", str(path)]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
    assert "codec" not in told


@pytest.mark.parametrize(("prefix", "what"), [("module.", "DataParallel"), ("_orig_mod.", "torch.compile")])
def test_a_prefix_that_a_wrapper_has_put_before_every_name_is_named(tmp_path, prefix, what):
    net = torch.nn.Conv3d(1, 2, 1)
    path = weights(tmp_path / "own.safetensors", "m:N", {prefix + k: v for k, v in net.state_dict().items()})
    with pytest.raises(CheckpointError, match=f"begins with '{prefix}', which {what} puts there"):
        checkpoint.load_weights(net, path)


class Plain(torch.nn.Conv3d):
    pass


class ReadsValues(torch.nn.Conv3d):
    def forward(self, x):
        return super().forward(x) * x.sum().item()


ONE_CHANNEL = {
    "convolution": lambda: torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1)),
    "batch norm": lambda: torch.nn.Sequential(torch.nn.BatchNorm3d(1), torch.nn.Conv3d(1, 2, 1)),
    "group norm": lambda: torch.nn.Sequential(torch.nn.GroupNorm(1, 1), torch.nn.Conv3d(1, 2, 1)),
}


@pytest.mark.parametrize("kind", ONE_CHANNEL)
@pytest.mark.parametrize("side", [4, 72])
def test_channels_that_a_network_does_not_take_are_told_with_those_it_takes(kind, side):
    shape = (1, 4, side, side, side)
    message = r"first layer, 0 \(\w+\), takes 1 channel, and 4 were fed: add --in-channels 1"
    with pytest.raises(ShapeError, match=message):
        measure_module(ONE_CHANNEL[kind](), shape)
    found = audit(ONE_CHANNEL[kind](), shape, name="own")
    assert "takes 1 channel, and 4 were fed: add --in-channels 1" in str(found.counter("torch").reason)


def test_channels_are_told_of_a_layer_that_a_class_of_ones_own_is_made_of():
    with pytest.raises(ShapeError, match=r"first layer, a Plain, takes 1 channel, and 4 were fed: add --in-channels 1"):
        measure_module(Plain(1, 2, 1), (1, 4, 8, 8, 8))


def test_channels_are_told_before_a_run_of_a_network_that_is_counted_by_running_it(own, capsys):
    (own / "readsvalues.py").write_text(
        "import torch\nclass Net(torch.nn.Conv3d):\n    def __init__(self):\n        super().__init__(1, 2, 1)\n"
        "    def forward(self, x):\n        return super().forward(x) * x.sum().item()\n"
    )
    words = ["run", "-q", "--models", "readsvalues:Net", "--spatial", "8", "8", "8", "--data", "none", "--no-noise"]
    assert main([*words, "--out", "r"]) == 2
    told = capsys.readouterr().err
    assert "takes 1 channel, and 4 were fed: add --in-channels 1" in told
    assert told.count("\n") == 1


def test_a_failure_of_another_kind_is_not_put_down_to_channels():
    later = torch.nn.Sequential(torch.nn.Conv3d(4, 2, 1), torch.nn.Conv3d(3, 2, 1))
    assert channels_refused(later, (1, 4, 4, 4, 4)) is None
    assert channels_refused(ReadsValues(4, 2, 1), (1, 4, 4, 4, 4)) is None
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever PyTorch raises
        measure_module(later, (1, 4, 4, 4, 4))
    assert not isinstance(caught.value, BenchError)


def test_a_class_of_one_channel_that_is_fed_four_is_refused_in_the_plan_with_the_flag(own):
    (own / "onecontrast.py").write_text(
        "import torch\nclass Net(torch.nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(torch.nn.Conv3d(1, 2, 1))\n"
    )
    found = zoo_cards.find_cards("onecontrast:Net")[0]
    events = []
    job = Job(model=found.spec(), workload=rec.Workload(spatial=(8, 8, 8)), folder=found.folder)
    worker.answer({"task": "count", "jobs": [rec.to_json(job)]}, events.append)
    told = events[-1]
    assert (told["event"], told["kind"]) == ("refused", "shape")
    assert "first layer, 0 (Conv3d), takes 1 channel, and 4 were fed: add --in-channels 1" in told["error"]


@pytest.mark.parametrize(
    ("words", "says"),
    [("train w.safetensors", "is trained already"), ("calibrate --models w.safetensors", "not a file")],
)
def test_commands_that_take_no_weights_say_so_and_never_advise_to_trust_them(own, words, says, capsys):
    weights(own / "w.safetensors", "mynets:MyNet")
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "--trust" not in told
