"""From a folder of images to weights, to a Dice, to a label map over a new image; and everything refused on the way."""

import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from benchbench import data
from benchbench.cli import main as cli_main
from benchbench.core.errors import CheckpointError, DataError, UsageError
from benchbench.core.records import ModelSpec
from benchbench.data import folder as folders
from benchbench.data.folder import plan_folder, prepared_folder
from benchbench.training import evaluate as training_evaluate
from benchbench.training import predict
from benchbench.training.evaluate import measure_dice
from benchbench.training.loop import _Training
from benchbench.training.processes import TrainingGroup
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.training.sliding_window import logits_of
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, places
from tests import data_sets as sets
from tests import forked
from tests.tiny_nets import Reads

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tilted(tmp_path):
    """Boxes on a rotated, anisotropic affine, so that everything is resampled."""
    return sets.decathlon(tmp_path / "Task99_Tilted", count=24, sides=(20, 22, 12), where=sets.TILTED)


def weights_of(plan, path, network=None, arch="tests.tiny_nets:Reads", name="reads", cases=()):
    """Weights of a network that reads the label off the intensities, as if it had been trained."""
    spec = ModelSpec(name=name, arch=arch, kwargs={}, in_channels=plan.in_channels, out_channels=plan.out_channels)
    network = network or Reads(plan.in_channels, plan.out_channels)
    train = {"cases": list(cases), "fold": plan.fold}
    checkpoint.save(path, network.state_dict(), model=spec, data=plan.key, spatial=(16, 16, 16), train=train, plan=plan)
    return path


def segment(folder, tmp_path, source, **more):
    path = weights_of(plan_folder(folder), tmp_path / "w.safetensors")
    out = tmp_path / "seg.nii.gz"
    predict.predict_files("tests.tiny_nets:Reads", path, source, out, **more)
    return nib.load(out)


def test_a_folder_of_cases_in_nnunets_naming_gives_a_label_map_of_each(tmp_path):
    folder = sets.nnunet(tmp_path / "Dataset001_Boxes", channels=2)
    path = weights_of(plan_folder(folder), tmp_path / "w.safetensors")
    cases, out = folder / "imagesTr", tmp_path / "labels"
    written = predict.predict_files("tests.tiny_nets:Reads", path, cases, out)
    assert [file.name for file in written] == ["pat0.nii.gz", "pat1.nii.gz", "pat2.nii.gz", "pat3.nii.gz"]
    one = tmp_path / "pat2"
    one.mkdir()
    for name in ("pat2_0000.nii.gz", "pat2_0001.nii.gz"):
        (one / name).write_bytes((cases / name).read_bytes())
    predict.predict_files("tests.tiny_nets:Reads", path, one, tmp_path / "seg.nii.gz")
    alone, among = (np.asarray(nib.load(file).dataobj) for file in (tmp_path / "seg.nii.gz", out / "pat2.nii.gz"))
    assert np.array_equal(alone, among)
    assert len(np.unique(alone)) == 3
    (cases / "pat1_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"the case pat1 has pat1_0000\.nii\.gz, and one file for each of"):
        predict.predict_files("tests.tiny_nets:Reads", path, cases, tmp_path / "more")
    with pytest.raises(DataError, match="no cases that are named"):
        predict.predict_files("tests.tiny_nets:Reads", path, folder / "labelsTr", tmp_path / "more")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_prediction_lies_exactly_over_its_image(tilted, tmp_path, how):
    source = tilted / "imagesTr/case_003.nii.gz"
    if how == "folder":
        only = tmp_path / "case"
        only.mkdir()
        (only / "image.nii.gz").write_bytes(source.read_bytes())
        (only / "image_seg.nii.gz").write_bytes(b"not an image, and not looked at")
    found = segment(tilted, tmp_path, source if how == "file" else only)
    image, label = nib.load(source), nib.load(tilted / "labelsTr/case_003.nii.gz")
    assert found.shape == image.shape
    assert np.allclose(found.affine, image.affine)
    assert found.get_data_dtype() == np.uint8
    seen, wanted = np.asarray(found.dataobj), np.asarray(label.dataobj)
    assert set(np.unique(seen)) <= {0, 1, 2}
    dice = 2 * ((seen > 0) & (wanted > 0)).sum() / ((seen > 0).sum() + (wanted > 0).sum())
    assert dice > 0.85
    centres = [np.argwhere(v > 0).mean(0) for v in (seen, wanted)]
    apart = nib.affines.apply_affine(image.affine, centres[0]) - nib.affines.apply_affine(image.affine, centres[1])
    assert np.linalg.norm(apart) < 0.5  # mm


def test_the_same_image_twice_gives_the_same_bytes(tilted, tmp_path):
    source = tilted / "imagesTr/case_003.nii.gz"
    segment(tilted, tmp_path, source)
    first = (tmp_path / "seg.nii.gz").read_bytes()
    segment(tilted, tmp_path, source)
    assert (tmp_path / "seg.nii.gz").read_bytes() == first


def test_channels_are_found_by_number_or_by_name(tmp_path):
    folder = tmp_path / "case"
    for name in ("x_0000", "x_0001"):
        sets.save(folder / f"{name}.nii.gz", sets.make()[0])
    found = predict.find_case(folder, ("MR0", "MR1"))
    assert [f.path.name for f in found.images] == ["x_0000.nii.gz", "x_0001.nii.gz"]
    brats = sets.brats(tmp_path / "b", ("BraTS-GLI-00001-000",)) / "BraTS-GLI-00001-000"
    named = predict.find_case(brats, ("T1", "T1ce", "T2", "FLAIR"))
    assert [f.path.name.rpartition("-")[2] for f in named.images] == [
        f"{n}.nii.gz" for n in ("t1n", "t1c", "t2w", "t2f")
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a", "b"], "no file is its channel MR0; it has a.nii.gz, b.nii.gz"),
        (["a_0000", "b_0000", "a_0001"], "2 files could be its channel MR0"),
        ([], "it has no image"),
    ],
)
def test_channels_that_cannot_be_told_apart(tmp_path, files, message):
    (tmp_path / "case").mkdir()
    for name in files:
        sets.save(tmp_path / "case" / f"{name}.nii.gz", sets.make()[0])
    with pytest.raises(DataError, match=message):
        predict.find_case(tmp_path / "case", ("MR0", "MR1"))


class TestRefused:
    def test_weights_of_another_network(self, tilted, tmp_path):
        path = weights_of(plan_folder(tilted), tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match="holds 'reads', not 'unet_small'"):
            predict.predict_files("unet_small", path, tilted, tmp_path / "s.nii.gz")

    def test_an_image_of_other_channels(self, tilted, tmp_path):
        sets.save(tmp_path / "two.nii.gz", sets.make(channels=2)[0])
        with pytest.raises(DataError):
            segment(tilted, tmp_path, tmp_path / "two.nii.gz")

    def test_an_output_that_is_no_image(self, tilted, tmp_path):
        path = weights_of(plan_folder(tilted), tmp_path / "w.safetensors")
        with pytest.raises(UsageError, match=r"must end in \.nii\.gz or \.nii"):
            predict.predict_files("tests.tiny_nets:Reads", path, tilted, tmp_path / "seg.png")

    def test_a_pickle_with_code_in_it(self, tilted, tmp_path):
        class Evil:
            def __reduce__(self):
                return (os.system, (f"touch {tmp_path}/ran",))

        path = weights_of(plan_folder(tilted), tmp_path / "w.safetensors")
        torch.save({"state": Evil()}, path)
        source = tilted / "imagesTr/case_003.nii.gz"
        with pytest.raises(CheckpointError):
            predict.predict_files("tests.tiny_nets:Reads", path, source, tmp_path / "s.nii.gz")
        assert not (tmp_path / "ran").exists()

    def test_weights_that_do_not_say_how_images_were_prepared(self, tmp_path):
        path = weights_of(data.get_plan("phantom"), tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match="does not say how its images were prepared"):
            predict.predict_files("tests.tiny_nets:Reads", path, tmp_path, tmp_path / "s.nii.gz")


def bench(*words, check=0, **more):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more
    code, said, told = forked.bench(list(map(str, words)), env=environment, folder=ROOT)
    assert code == check, told + said
    return said + told


def test_train_run_and_predict_by_their_commands(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    net = "tests.tiny_nets:Reads"
    out = tmp_path / "trained"
    said = bench("train", net, "--data", folder, "--budget", "12steps", "--out", out, "--threads", 1)
    weights = out / f"{checkpoint.file_name(net)}.safetensors"
    assert str(weights) in said
    told = json.loads(weights.with_suffix(".json").read_text())
    plan = plan_folder(folder)
    assert told["data"] == plan.key
    assert told["plan"]["regions"] == [["shell", [1]], ["kernel", [2]]]  # in the order of the channels
    kept = checkpoint.read_sidecar(weights).plan
    assert kept == dataclasses.replace(plan, folder=None, ids={})
    assert set(told["train"]["cases"]) == {*plan.ids["train"], *plan.ids["val"]}
    assert not set(told["train"]["cases"]) & set(plan.ids["test"])
    run = tmp_path / "run"
    words = ("--models", net, "--data", folder, "--protocol", "quick,half_width=1000", "--no-noise", "--threads", 1)
    bench("run", *words, "--checkpoints", out, "--out", run)
    record = json.loads((run / "records.jsonl").read_text())
    by = {m["metric"]: m for m in record["measurements"]}
    assert by["dice"]["origin"] == "measured"
    assert len(by["dice"]["values"]) == plan.splits["test"]
    assert {"dice_shell", "dice_kernel", "hd95_mm", "nsd_1mm"} <= set(by)
    assert record["workload"]["data"] == plan.key
    assert record["workload"]["spatial"] == list(plan.patch)
    assert record["workload"]["volume"] == list(plan.sides)
    assert by["volume_latency_s"]["value"] > 0
    (path,) = (run / artifact["path"] for artifact in record["artifacts"] if artifact["kind"] == "cases")
    cases = json.loads(path.read_text())
    assert cases["ids"] == list(plan.ids["test"])
    assert cases["values"]["dice_kernel"] == pytest.approx(by["dice_kernel"]["values"], abs=1e-6)
    seg = tmp_path / "seg.nii.gz"
    bench("predict", net, "--checkpoint", weights, "--input", folder / "imagesTr/case_000.nii.gz", "--output", seg)
    assert nib.load(seg).shape == sets.SIDES


def test_weights_that_saw_a_test_case_are_refused(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    plan = plan_folder(folder)
    path = weights_of(plan, tmp_path / "w.safetensors", cases=plan.ids["test"][:2])
    net = "tests.tiny_nets:Reads"
    said = bench("run", "--models", net, "--data", folder, "--checkpoint", path, check=2)
    assert f"was trained with 2 of the {plan.splits['test']} test cases of fold 0" in said
    assert places.find("reads", 1, 3, (16, 16, 16), plan, [tmp_path]) is None


def test_two_processes_train_one_network(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    net = "tests.tiny_nets:Unused"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "benchbench", "train", net, "--data", str(folder), "--budget", "4steps"]
    command += ["--out", str(tmp_path / "t"), "--threads", "1", "--seed", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "t" / f"{checkpoint.file_name(net)}.json").read_text())
    assert (told["train"]["processes"], told["train"]["steps_done"]) == (2, 4)
    assert done.stdout.count("checkpoint:") == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    words = command[command.index("benchbench") + 1 :]
    with ThreadPoolExecutor(2) as pool:  # each as `torch.distributed.run` starts it
        again = pool.map(lambda rank: bench(*words, **group, RANK=rank, LOCAL_RANK=rank), ("0", "1"))
        assert "".join(again).count("finished before") == 1


def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    net = "tests.tiny_nets:Reads"
    words = ["train", net, "--data", str(folder), "--budget", "120steps", "--validations", "0", "--threads", "1"]
    words += ["--keep-every", "200ms", "--dtype", "fp32"]  # a precision by timing may be another the next time
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    torn = tmp_path / "torn"
    command = [sys.executable, "-m", "benchbench", *words, "--out"]
    child = subprocess.Popen([*command, str(torn)], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    resume = torn / f"{checkpoint.file_name(net)}.resume"
    until = time.monotonic() + 120
    while not resume.exists():
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not resume.with_suffix(".safetensors").exists()
    for out in (torn, tmp_path / "whole"):
        bench(*words, "--out", out)
    files = [checkpoint.read_sidecar(out / resume.with_suffix(".json").name) for out in (torn, tmp_path / "whole")]
    assert files[0].sha256 == files[1].sha256
    assert files[0].train["steps_done"] == 120


def test_data_commands(tmp_path, capsys):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    assert cli_main.main(["data", "list", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Task99_Boxes" in said
    assert "msd:Task04" in said
    assert "synapse.org" in said
    assert cli_main.main(["data", "check", str(folder)]) == 0
    assert "no fault" in capsys.readouterr().out
    assert cli_main.main(["data", "prepare", str(folder)]) == 0
    assert "24 cases prepared" in capsys.readouterr().out
    assert len(list(prepared_folder(plan_folder(folder)).glob("*.npz"))) == 24
    assert cli_main.main(["data", "cache"]) == 0
    assert "Task99_Boxes-" in capsys.readouterr().out
    assert cli_main.main(["data", "cache", "--clear"]) == 0
    assert "removed" in capsys.readouterr().out
    assert cli_main.main(["data", "split", str(folder), "--out", str(tmp_path / "s.json")]) == 0
    assert len(json.loads((tmp_path / "s.json").read_text())) == 5
    (folder / "labelsTr/case_003.nii.gz").unlink()
    assert cli_main.main(["data", "check", str(folder)]) == 3
    assert "fail: case_003" in capsys.readouterr().out
    assert cli_main.main(["data", "fetch", "brats2021"]) == 2
    assert "register at synapse.org" in capsys.readouterr().err
    assert cli_main.main(["data", "fetch", "msd:Task99"]) == 2
    assert "unknown data set 'msd:Task99'" in capsys.readouterr().err


def test_weights_from_elsewhere_are_judged_on_every_case(tmp_path):
    """A folder of another hospital: all of it is test, and weights that have seen any of it are refused."""
    ours = sets.decathlon(tmp_path / "Task98_Ours", count=12)
    theirs = sets.decathlon(tmp_path / "Task99_Boxes", count=7)
    path = weights_of(plan_folder(ours), tmp_path / "w.safetensors", cases=["patient_1"])
    net, run = "tests.tiny_nets:Reads", tmp_path / "run"
    words = ("--models", net, "--checkpoint", path, "--protocol", "quick,half_width=1000", "--no-noise", "--threads", 1)
    bench("run", *words, "--data", theirs, "--fold", "all", "--out", run)
    record = json.loads((run / "records.jsonl").read_text())
    (dice,) = (m for m in record["measurements"] if m["metric"] == "dice")
    assert len(dice["values"]) == 7
    assert record["workload"]["data"].endswith(":all")
    path = weights_of(plan_folder(theirs), tmp_path / "w.safetensors", cases=["case_001"])
    said = bench("run", *words, "--data", theirs, "--fold", "all", check=2)
    assert "was trained with 1 of the 7 test cases, such as case_001" in said
    assert "is no fold" in bench("run", *words, "--data", theirs, "--fold", "most", check=2)
    assert "is no fold" in bench("train", net, "--data", theirs, "--budget", "1steps", "--fold", "all", check=2)


def damage(folder, *cases):
    """Cut the images of some cases short, which their headers do not show."""
    for case in cases:
        path = folder / f"imagesTr/{case}.nii.gz"
        path.write_bytes(path.read_bytes()[:-200])


def test_a_training_leaves_out_what_cannot_be_read(tmp_path, caplog):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    plan = plan_folder(folder)
    bad = [plan.ids[part][0] for part in ("train", "val", "test")]
    damage(folder, *bad)
    out = tmp_path / "t"
    words = ["train", "tests.tiny_nets:Reads", "--data", str(folder), "--budget", "3steps", "--threads", "1"]
    assert cli_main.main([*words, "--out", str(out)]) == 0
    told = json.loads((out / "tests.tiny_nets-Reads.json").read_text())
    assert told["train"]["steps_done"] == 3
    assert not set(told["train"]["cases"]) & set(bad)
    assert caplog.text.count("left out: ") == 3
    assert plan_folder(folder).splits == {name: count - 1 for name, count in plan.splits.items()}
    sets.save(folder / f"imagesTr/{bad[0]}.nii.gz", sets.make()[0])  # repaired
    folders._plan.cache_clear()  # as in another process
    assert plan_folder(folder).splits["train"] == plan.splits["train"]


def test_a_training_without_validation_cases_is_kept(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=6)
    ids = [f"case_{i:03d}" for i in range(6)]
    (folder / "splits_final.json").write_text(json.dumps([{"train": ids[:1], "val": ids[1:]}]))
    assert plan_folder(folder).splits == {"train": 1, "val": 0, "test": 5}
    out = tmp_path / "t"
    words = ["train", "tests.tiny_nets:Reads", "--data", str(folder), "--budget", "2steps", "--threads", "1"]
    assert cli_main.main([*words, "--out", str(out)]) == 0
    assert json.loads((out / "tests.tiny_nets-Reads.json").read_text())["train"]["validation"] == []


def test_a_case_that_cannot_be_read_is_left_out_of_the_dice_and_named(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    plan = plan_folder(folder)
    damage(folder, plan.ids["test"][0])
    found = measure_dice(Reads(), data=plan.where, spatial=plan.patch, surfaces=False)
    (dice,) = (m for m in found.measurements if m.metric == "dice")
    assert len(dice.values) == plan.splits["test"] - 1
    assert found.cases["ids"] == list(plan.ids["test"][1:])
    assert f"1 could not be read: {plan.ids['test'][0]}" in dice.method


def test_data_that_is_gone_costs_the_dice_and_not_the_latency(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    plan = plan_folder(folder)
    path = weights_of(plan, tmp_path / "w.safetensors")
    damage(folder, *plan.ids["test"])
    words = ("--protocol", "quick,half_width=1000", "--no-noise", "--threads", 1, "--out", tmp_path / "run")
    bench("run", "--models", "tests.tiny_nets:Reads", "--data", folder, "--checkpoint", path, *words)
    record = json.loads((tmp_path / "run" / "records.jsonl").read_text())
    by = {m["metric"]: m for m in record["measurements"]}
    assert record["status"] == "ok"
    assert by["latency_s"]["value"] > 0
    assert by["dice"]["value"] is None
    assert "none of the" in by["dice"]["reason"]


def test_a_list_that_was_added_is_another_training(tmp_path):
    """A killed training must not go on with other cases under the same name."""
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    plan = plan_folder(folder)
    changed = dataclasses.replace(plan, ids={**plan.ids, "train": plan.ids["train"][1:]})
    spec = ModelSpec(name="reads", arch="tests.tiny_nets:Reads", kwargs={}, in_channels=1, out_channels=3)
    recipe = TrainRecipe(data=plan.where, patch=(16, 16, 16), budget=TrainingBudget(steps=1))
    one, other = (
        _Training(Reads(), spec, recipe, p, tmp_path / "w.safetensors", "cpu", TrainingGroup()) for p in (plan, changed)
    )
    assert one._identity() != other._identity()


def test_weights_of_a_patient_are_refused_for_another_scan_of_it(tmp_path, caplog):
    names = tuple(f"BraTS-GLI-{i:05d}-001" for i in range(12))
    theirs = plan_folder(sets.brats(tmp_path / "theirs", names))
    theirs = dataclasses.replace(theirs, ids={"test": names})
    path = weights_of(theirs, tmp_path / "w.safetensors", cases=["BraTS-GLI-00003-000", "BraTS-GLI-99999-000"])
    assert checkpoint.leaks(checkpoint.read_sidecar(path), theirs) == ["BraTS-GLI-00003-001"]
    elsewhere = dataclasses.replace(theirs, name="other", digest="0")
    assert checkpoint.leaks(checkpoint.read_sidecar(path), elsewhere) == []
    assert "make sure that they are other patients" in caplog.text


def test_pictures_of_resampled_cases_are_of_what_the_network_saw(tilted):
    sets.save(tilted / "labelsTr/case_000.nii.gz", sets.make(0, (20, 22, 12))[1])
    sets.save(tilted / "imagesTr/case_000.nii.gz", sets.make(0, (20, 22, 12))[0])  # of another spacing than the rest
    plan = plan_folder(tilted)
    assert plan.preparation.resample
    answer = functools.partial(logits_of, Reads(), plan=plan, spatial=plan.patch)
    prediction = training_evaluate.predict_case(answer, plan, plan.where, "test", 0)
    assert prediction.case.label.shape == (20, 22, 12)  # of its file
    assert abs(float(prediction.network_case.image.mean())) < 0.05  # z-scores
    shape = prediction.network_case.label.shape
    assert shape == prediction.network_case.image.shape[1:] == prediction.network_regions.shape[1:]
    assert shape != prediction.case.label.shape


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--models", "nnunet", "--checkpoint", "{small}"), "holds 'nnunet_small', not 'nnunet'"),
        (("--models", "nnunet", "--checkpoint", "{small}.pt"), "is no .safetensors file"),
    ],
)
def test_what_a_run_on_a_folder_refuses(tmp_path, words, message):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    plan = plan_folder(folder)
    card = zoo_cards.get_card("nnunet_small").planned(plan.patch)
    spec = card.spec(in_channels=1, out_channels=3)
    small = tmp_path / "nnunet_small.safetensors"
    state = zoo_build.build(spec, plan.patch).state_dict()
    checkpoint.save(small, state, model=spec, data=plan.key, spatial=plan.patch, train={}, plan=plan)
    said = bench("run", "--data", folder, *(word.format(small=small) for word in words), check=2)
    assert message in said
    assert "Traceback" not in said


def test_a_folder_with_more_channels_than_the_weights_is_refused(tmp_path):
    for number in range(4):
        sets.save(tmp_path / "case" / f"x_{number:04d}.nii.gz", sets.make()[0])
    assert len(predict.find_case(tmp_path / "case", ("a", "b", "c", "d")).images) == 4
    with pytest.raises(DataError, match=r"more channels than the 2 of the weights: x_0002\.nii\.gz, x_0003\.nii\.gz"):
        predict.find_case(tmp_path / "case", ("a", "b"))


def test_several_processes_without_a_folder_and_a_gpu_that_is_not_there(tmp_path, monkeypatch, capsys):
    folder = sets.decathlon(tmp_path / "Task99_Boxes", count=24)
    words = ["train", "tests.tiny_nets:Reads", "--data", str(folder), "--budget", "1steps"]
    if not torch.cuda.is_available():
        assert cli_main.main([*words, "--device", "cuda", "--out", str(tmp_path / "t")]) == 2
        assert "PyTorch sees no GPU here" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli_main.main(words) == 2
    assert "name it with --out" in capsys.readouterr().err
    assert cli_main.main([*words, "--data", f"{folder}#all", "--out", str(tmp_path / "t")]) == 2
    assert "no case to train on" in capsys.readouterr().err
