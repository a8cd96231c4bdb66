"""An evaluation: the Dice of `bench run`, ensembles, label maps, what is refused, and what an interruption leaves."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, DataError, StoreError, UsageError
from benchbench.core.results import JsonLines, Store, read_records
from benchbench.data.folder import plan_folder
from benchbench.data.plan import ALL
from benchbench.runner.evaluation import cases as evaluation_cases
from benchbench.runner.evaluation import journal, plan
from benchbench.runner.evaluation.request import EvaluateRequest
from benchbench.runner.evaluation.run import evaluate
from benchbench.training import predict
from benchbench.training.ensemble import ensemble_of
from benchbench.training.evaluate import measure_dice
from benchbench.zoo import checkpoint
from tests import data_sets as sets
from tests.tiny_nets import Killed, Reads

ARCH = "tests.tiny_nets:Reads"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def boxes(tmp_path):
    return sets.decathlon(tmp_path / "Task99_Boxes", count=24)


def reader(shift=0.0):
    """A network that reads the labels off the intensities; shifted, it misses some."""
    network = Reads()
    with torch.no_grad():
        network.head.bias[0] += shift
    return network.eval()


def weights(folder, name, *, shift=0.0, spatial=(16, 16, 16), cases=(), arch=ARCH, channels=1, state=None, **changed):
    """A file of weights as training leaves it; its path."""
    data = plan_folder(folder)
    path = folder.parent / f"nets/{name}.safetensors"
    spec = rec.ModelSpec(name=name, arch=arch, kwargs={}, in_channels=channels, out_channels=3)
    more = {"model": spec, "data": data.key, "spatial": spatial, "train": {"cases": list(cases)}, "plan": data}
    checkpoint.save(path, state or reader(shift).state_dict(), **more | changed)
    return str(path)


def asked(folder, *networks, **more):
    return EvaluateRequest(data=str(folder), networks=networks, trust=True, **more)


def maps_of(folder, to, split="test", change=lambda label: label):
    """Label maps of the cases of a split, as another program writes them."""
    data = plan_folder(folder)
    for case in data.ids[split]:
        label = np.asarray(sets.nib.load(folder / f"labelsTr/{case}.nii.gz").dataobj)
        sets.save(to / f"{case}.nii.gz", change(label.copy()))
    return to


def shrunk(label):
    label[:, :, 6] = 0
    return label


def test_a_network_has_the_metrics_of_a_run_case_by_case_and_no_latency(boxes, tmp_path):
    path = weights(boxes, "reads", shift=1.0)
    (record,) = evaluate(asked(boxes, path), tmp_path / "out").records
    expected = measure_dice(reader(1.0), data=str(boxes), spatial=(16, 16, 16))
    for wanted in expected.measurements:
        found = record.get(wanted.metric)
        assert (found.value, found.values, found.ci95) == (wanted.value, wanted.values, wanted.ci95)
        assert found.method == wanted.method
    assert record.status == "ok"
    assert record.value("params") == sum(p.numel() for p in Reads().parameters())
    assert not any(m.metric.startswith(("latency", "peak", "macs", "volume")) for m in record.measurements)
    assert record.workload.protocol == "evaluation"
    kept = {a.kind: a for a in record.artifacts}
    assert json.loads((tmp_path / "out" / kept["cases"].path).read_text()) == expected.cases
    pictures = [a for a in record.artifacts if a.kind == "picture"]
    assert [a.title for a in pictures] == [p.title for p in expected.pictures]
    assert [(tmp_path / "out" / a.path).read_bytes() for a in pictures] == [p.png for p in expected.pictures]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".lock", "artifacts", "records.jsonl"]


def test_label_maps_have_the_metrics_that_their_voxels_give(boxes, tmp_path):
    perfect = maps_of(boxes, tmp_path / "perfect")
    worse = maps_of(boxes, tmp_path / "worse", change=shrunk)
    found = evaluate(asked(boxes, predictions=(perfect, worse)), tmp_path / "out").records
    assert [record.model.name for record in found] == ["perfect", "worse"]
    assert (found[0].value("dice"), found[0].value("hd95_mm"), found[0].value("nsd_1mm")) == (1.0, 0.0, 1.0)
    assert 0.5 < found[1].value("dice") < 1.0
    shell = found[1].get("dice_shell").values
    label = np.asarray(sets.nib.load(boxes / f"labelsTr/{plan_folder(boxes).ids['test'][0]}.nii.gz").dataobj)
    a, b = label == 1, shrunk(label.copy()) == 1
    assert shell[0] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert found[0].value("params") is None
    assert len([a for a in found[0].artifacts if a.kind == "picture"]) == 3
    assert "label maps of perfect" in found[0].get("dice").method


def test_label_maps_of_several_formats_are_read(boxes, tmp_path):
    data, to = plan_folder(boxes), tmp_path / "seg"
    to.mkdir()
    formats = [(".mgz", sets.nib.MGHImage), (".nii.bz2", sets.nib.Nifti1Image), (".img", sets.nib.Nifti1Pair)]
    for i, case in enumerate(data.ids["test"]):
        end, kind = formats[i % len(formats)]
        label = sets.nib.load(boxes / f"labelsTr/{case}.nii.gz")
        sets.nib.save(kind(np.asarray(label.dataobj).astype(np.float32), label.affine), to / f"{case}{end}")
    (record,) = evaluate(asked(boxes, predictions=(to,)), tmp_path / "out").records
    assert record.error is None
    assert record.get("dice").values == (1.0,) * len(data.ids["test"])
    assert len(data.ids["test"]) >= len(formats)


def test_the_label_maps_of_a_network_are_as_good_as_the_network(tmp_path):
    tilted = sets.decathlon(tmp_path / "Task99_Tilted", count=24, sides=(20, 22, 12), where=sets.TILTED)
    path, to = Path(weights(tilted, "reads")), tmp_path / "seg"
    to.mkdir()
    for case in plan_folder(tilted).ids["test"]:
        predict.predict_files(ARCH, path, tilted / f"imagesTr/{case}.nii.gz", to / f"{case}.nii.gz")
    network, maps = evaluate(asked(tilted, str(path), predictions=(to,)), tmp_path / "out").records
    for metric, most in (("dice", 2e-3), ("dice_shell", 2e-3), ("hd95_mm", 0.1)):  # apart by a voxel, where logits tie
        assert maps.get(metric).values == pytest.approx(network.get(metric).values, abs=most)


def test_an_ensemble_is_the_mean_of_probabilities_and_a_member_with_large_logits_does_not_decide_alone():
    data = dataclasses.replace(plan.data.get_plan("phantom"), regions={"a": (1,), "b": (2,)}, exclusive=True)
    logits = [torch.tensor([0.0, 50.0, 0.0]), torch.tensor([0.0, -9.0, 1.0]), torch.tensor([0.0, -9.0, 2.0])]
    answers = [lambda image, x=x: x.reshape(3, 1, 1, 1) for x in logits]
    mean = ensemble_of(answers, data)(np.zeros((1, 1, 1, 1), np.float32)).flatten()
    assert mean.tolist() == pytest.approx(torch.stack([x.softmax(0) for x in logits]).mean(0).tolist())
    assert mean.argmax() == 2  # the mean of logits would say 1
    apart = dataclasses.replace(data, exclusive=False)
    mean = ensemble_of(answers, apart)(np.zeros((1, 1, 1, 1), np.float32)).flatten()
    assert (mean > 0).tolist() == (torch.stack([x.sigmoid() for x in logits]).mean(0) > 0.5).tolist()


def test_an_ensemble_is_a_row_of_its_own_known_by_its_members(boxes, tmp_path):
    one, two = weights(boxes, "one", shift=1.5), weights(boxes, "a+b", shift=-1.0, spatial=(24, 24, 24))
    found = evaluate(asked(boxes, f"{one}+{two}", two), tmp_path / "out").records
    assert [record.model.name for record in found] == ["one+a+b", "a+b"]
    ensemble = found[0]
    assert ensemble.model.arch == "ensemble"
    assert [m["checkpoint"] for m in ensemble.model.kwargs["members"]] == [
        checkpoint.read_sidecar(tmp_path / f"nets/{name}.safetensors").sha256 for name in ("one", "a+b")
    ]
    assert ensemble.value("params") == 2 * found[1].value("params")
    assert "mean softmax of one (patch 16x16x16" in ensemble.get("dice").method
    assert ensemble.value("dice") > 0.9
    alone = evaluate(asked(boxes, f"{two}+{two}"), tmp_path / "twice").records[0]
    assert alone.get("dice").values == found[1].get("dice").values


def test_two_subjects_of_one_name_are_told_apart_by_their_places(boxes, tmp_path):
    other = tmp_path / "later/reads-2.safetensors"
    other.parent.mkdir()
    checkpoint.copy(Path(weights(boxes, "reads")), other)
    first = weights(boxes, "reads", shift=1.0)
    maps = (maps_of(boxes, tmp_path / "x/seg"), maps_of(boxes, tmp_path / "y/seg", change=shrunk))
    found = evaluate(asked(boxes, first, str(other), predictions=maps), tmp_path / "out").records
    assert [r.model.name for r in found] == ["reads (nets/reads)", "reads (later/reads-2)", "seg (x)", "seg (y)"]


def test_what_is_there_twice_has_one_row_and_is_named(boxes, tmp_path, caplog):
    path = weights(boxes, "reads")
    maps = (maps_of(boxes, tmp_path / "x/seg"), maps_of(boxes, tmp_path / "y/seg"))
    found = evaluate(asked(boxes, path, path, predictions=maps), tmp_path / "out").records
    assert [r.model.name for r in found] == ["reads", "seg"]
    assert "seg (y) is the same as seg (x): it has no row of its own" in caplog.text


def test_a_folder_names_the_one_network_in_it(boxes, tmp_path):
    path = weights(boxes, "reads")
    found = evaluate(asked(boxes, str(tmp_path / "nets")), tmp_path / "out").records
    assert [r.model.name for r in found] == ["reads"]
    assert evaluate(asked(boxes, path.replace(".safetensors", ".json")), tmp_path / "out").reused == 1
    weights(boxes, "other")
    with pytest.raises(UsageError, match=r"is a folder: name one of the networks in it, such as .*other\.safetensors"):
        evaluate(asked(boxes, str(tmp_path / "nets")), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        evaluate(asked(boxes, str(tmp_path / "empty")), tmp_path / "out")


def test_several_processes_find_the_same(boxes, tmp_path, forked_workers):
    path = weights(boxes, "reads", shift=1.0)
    maps = maps_of(boxes, tmp_path / "seg", change=shrunk)
    asking = asked(boxes, path, predictions=(maps,))
    alone = evaluate(asking, tmp_path / "alone").records
    told = []
    shared = evaluate(
        dataclasses.replace(asking, workers=2), tmp_path / "shared", progress=lambda share, line: told.append(share)
    ).records
    for one, two in zip(alone, shared, strict=True):
        assert one.cell == two.cell
        assert [dataclasses.replace(m, method="") for m in one.measurements] == [
            dataclasses.replace(m, method="") for m in two.measurements
        ]
        assert [a.sha256 for a in one.artifacts] == [a.sha256 for a in two.artifacts]
    count = 2 * plan_folder(boxes).splits["test"]
    assert told == [pytest.approx(n / count) for n in range(1, count + 1)]


def test_a_process_that_is_killed_is_a_row_that_failed(boxes, tmp_path, forked_workers, monkeypatch):
    path = weights(boxes, "killed", arch="tests.tiny_nets:Killed", state=Killed(1, 3).state_dict())
    killed, maps = evaluate(
        asked(boxes, path, predictions=(maps_of(boxes, tmp_path / "seg"),), workers=2), tmp_path / "out"
    ).records
    assert killed.status == "failed"
    assert "SIGKILL" in killed.error
    assert maps.status == "ok"


def test_an_interrupted_evaluation_keeps_its_cases_and_goes_on(boxes, tmp_path, monkeypatch):
    path = weights(boxes, "reads", shift=1.0)
    count, predicted = plan_folder(boxes).splits["test"], []
    real = evaluation_cases.judging.predict_case

    def counting(answer, data, where, split, index):
        predicted.append(index)
        return real(answer, data, where, split, index)

    monkeypatch.setattr(evaluation_cases.judging, "predict_case", counting)

    def stop(share, line):
        if len(predicted) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(asked(boxes, path), tmp_path / "out", progress=stop)
    assert (tmp_path / "out" / journal.JOURNAL).read_bytes().count(b"\n") == 2
    (record,) = evaluate(asked(boxes, path), tmp_path / "out").records
    assert predicted == list(range(count))
    whole = evaluate(asked(boxes, path), tmp_path / "whole").records[0]
    assert record.measurements == whole.measurements
    assert [a.sha256 for a in record.artifacts] == [a.sha256 for a in whole.artifacts]
    assert not (tmp_path / "out" / journal.JOURNAL).exists()
    assert not (tmp_path / "out" / journal.SLICES).exists()
    again = evaluate(asked(boxes, path), tmp_path / "out")
    assert (again.reused, again.records) == (1, (record,))
    assert len(list(read_records(tmp_path / "out"))) == 1


def test_fresh_judges_every_case_again_and_sets_aside_what_was_there(boxes, tmp_path):
    to, told = maps_of(boxes, tmp_path / "seg"), []
    evaluate(asked(boxes, predictions=(to,)), tmp_path / "out")
    again = evaluate(
        asked(boxes, predictions=(to,)), tmp_path / "out", fresh=True, progress=lambda share, line: told.append(line)
    )
    assert again.reused == 0
    assert told[-1] == f"seg, case {len(told)} of {plan_folder(boxes).splits['test']}"
    assert (tmp_path / "out/records.jsonl.old").exists()


def test_a_full_disk_ends_it_and_is_no_fault_of_the_network(boxes, tmp_path, monkeypatch):
    def full(self, *items):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JsonLines, "append", full)
    with pytest.raises(StoreError, match=r"cases\.unfinished: No space left on device; what is finished is kept"):
        evaluate(asked(boxes, weights(boxes, "reads")), tmp_path / "out")
    with Store(tmp_path / "out") as store:
        assert not store.records


def test_changed_label_maps_are_judged_anew(boxes, tmp_path):
    to = maps_of(boxes, tmp_path / "seg")
    before = evaluate(asked(boxes, predictions=(to,)), tmp_path / "out").records[0]
    maps_of(boxes, to, change=shrunk)
    after = evaluate(asked(boxes, predictions=(to,)), tmp_path / "out")
    assert (after.reused, before.value("dice")) == (0, 1.0)
    assert after.records[0].value("dice") < 1.0


def test_a_label_that_the_data_do_not_have_fails_the_row_and_is_named(boxes, tmp_path):
    def strange(label):
        label[0, 0, 0] = 7
        return label

    bad, good = maps_of(boxes, tmp_path / "bad", change=strange), maps_of(boxes, tmp_path / "good")
    found = evaluate(asked(boxes, predictions=(bad, good)), tmp_path / "out").records
    assert [record.status for record in found] == ["failed", "ok"]
    assert "has the label 7, which the data set does not know (it has 0, 1, 2)" in found[0].error
    assert "bad/case_" in found[0].error
    assert found[0].get("dice") is None


def test_a_mean_over_fewer_cases_says_so(boxes, tmp_path):
    to = maps_of(boxes, tmp_path / "seg")
    gone = plan_folder(boxes).ids["test"][0]
    (to / f"{gone}.nii.gz").unlink()
    with pytest.raises(DataError, match=gone):
        evaluate(asked(boxes, predictions=(to,)), tmp_path / "out")
    (record,) = evaluate(asked(boxes, predictions=(to,), allow_missing=True), tmp_path / "out").records
    count = plan_folder(boxes).splits["test"]
    assert (record.value("evaluated_cases"), record.value("missing_cases")) == (count - 1, 1)
    assert f"1 of {count} cases have no label map: {gone}" in record.get("dice").method
    assert len(record.get("dice").values) == count - 1


def test_a_case_that_cannot_be_read_is_left_out_of_both_and_said(boxes, tmp_path, caplog):
    path, to = weights(boxes, "reads"), maps_of(boxes, tmp_path / "seg")
    gone, count = plan_folder(boxes).ids["test"][1], plan_folder(boxes).splits["test"]
    label = boxes / f"labelsTr/{gone}.nii.gz"
    size = label.stat().st_size
    label.write_bytes(label.read_bytes()[:-60] + b"\0" * 60)
    assert label.stat().st_size == size
    network, maps = evaluate(asked(boxes, path, predictions=(to,)), tmp_path / "out").records
    for record in (network, maps):
        assert (record.status, record.value("evaluated_cases"), record.value("missing_cases")) == ("ok", count - 1, 1)
        assert gone in record.get("missing_cases").method
    assert f"{gone}.nii.gz cannot be read" in caplog.text


def test_weights_that_know_the_test_cases_are_refused_and_on_other_splits_named(boxes, tmp_path, caplog):
    data = plan_folder(boxes)
    path = weights(boxes, "reads", cases=data.ids["train"])
    (record,) = evaluate(asked(boxes, path), tmp_path / "out").records
    assert record.get("training_cases") is None
    (trained,) = evaluate(asked(boxes, path, split="train"), tmp_path / "out").records
    assert trained.value("training_cases") == len(data.ids["train"])
    assert "so this is no test" in trained.get("dice").method
    assert f"was trained with {len(data.ids['train'])} of these" in caplog.text
    (every,) = evaluate(asked(boxes, path, split="all"), tmp_path / "out").records
    assert (every.value("evaluated_cases"), every.value("training_cases")) == (24, len(data.ids["train"]))
    assert every.workload.data == plan_folder(boxes, fold=ALL).key
    assert len({record.cell, trained.cell, every.cell}) == 3
    leaky = weights(boxes, "leaky", cases=data.ids["test"][:2])
    with pytest.raises(CheckpointError, match=rf"trained with 2 of the {len(data.ids['test'])} test cases of fold 0"):
        evaluate(asked(boxes, leaky), tmp_path / "out")


def test_weights_of_other_channels_or_labels_are_refused(boxes, tmp_path):
    two = weights(boxes, "two", channels=2)
    with pytest.raises(CheckpointError, match=r"has 2 channels in and 3 out, and Task99_Boxes needs 1 \(MR0\) and 3"):
        evaluate(asked(boxes, two), tmp_path / "out")
    theirs = dataclasses.replace(plan_folder(boxes), regions={"kernel": (2,), "shell": (1,)})
    swapped = weights(boxes, "swapped", plan=theirs)
    with pytest.raises(CheckpointError, match="kernel = 2, shell = 1 there, shell = 1, kernel = 2 here"):
        evaluate(asked(boxes, swapped), tmp_path / "out")


def test_regions_of_other_names_are_taken_in_their_order_and_told(boxes, tmp_path, caplog):
    renamed = dataclasses.replace(plan_folder(boxes), regions={"rim": (1,), "core": (2,)})
    (record,) = evaluate(asked(boxes, weights(boxes, "reads", plan=renamed)), tmp_path / "out").records
    assert record.status == "ok"
    assert "calls its regions rim, core, and Task99_Boxes calls them shell, kernel" in caplog.text


def test_a_zoo_network_gets_the_weights_that_there_are_for_the_data(boxes, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no weights of slim_unetr for Task99_Boxes at \d+x\d+x\d+: 'bench train"
    ):
        evaluate(asked(boxes, "slim_unetr"), tmp_path / "out")


@pytest.mark.parametrize(
    ("networks", "why"),
    [
        ((), "nothing to evaluate: name networks, or folders of label maps with --predictions"),
        (("slim_unter",), "unknown model 'slim_unter': did you mean 'slim_unetr'"),
        (("slim_unetr+",), "an ensemble with an empty member"),
        (("slim*+unetr",), r"'slim\*' in 'slim\*\+unetr' names \d networks"),
        (("nets/no.safetensors",), "no.json"),
    ],
)
def test_what_names_no_network_is_refused(boxes, tmp_path, networks, why):
    with pytest.raises(UsageError, match=why):
        evaluate(asked(boxes, *networks), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_without_cases_is_refused(tmp_path):
    folder = sets.decathlon(tmp_path / "Task99_Few", count=6)
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case_000"], "val": ["case_001", "case_002"]}]))
    with pytest.raises(DataError, match="has no val case in fold 0: take another --split or --fold"):
        evaluate(asked(folder, weights(folder, "reads"), split="val"), tmp_path / "out")


def test_a_network_whose_output_is_not_finite_fails_its_row_alone(boxes, tmp_path):
    broken = reader()
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    path = weights(boxes, "broken", state=broken.state_dict())
    found = evaluate(asked(boxes, path, weights(boxes, "reads")), tmp_path / "out").records
    assert [record.status for record in found] == ["failed", "ok"]
    assert "not finite" in found[0].error


def test_mirroring_needs_weights_that_say_along_which_axes(boxes, tmp_path):
    with pytest.raises(CheckpointError, match="does not say along which axes"):
        evaluate(asked(boxes, weights(boxes, "reads"), test_time_mirroring=True), tmp_path / "out")
    mirrored = weights(boxes, "mirrored", train={"recipe": {"mirror": [0]}})
    (record,) = evaluate(asked(boxes, mirrored, test_time_mirroring=True), tmp_path / "out").records
    assert record.workload.test_time_mirroring == (0,)


def test_files_that_vanish_while_it_runs_fail_the_row(boxes, tmp_path):
    to = maps_of(boxes, tmp_path / "seg")

    def remove(share, line):
        shutil.rmtree(to, ignore_errors=True)

    (record,) = evaluate(asked(boxes, predictions=(to,)), tmp_path / "out", progress=remove).records
    assert record.status == "failed"
    assert "is missing" in record.error
