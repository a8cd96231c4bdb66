"""Cases of an evaluation, in one process: segmented by networks or read from label maps, and judged.

It is a task of the worker process, and runs in the process of the command where no other is asked for. Each case is
told the moment that it is judged, so whoever listens loses nothing.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchbench.core import records as rec
from benchbench.core.errors import BenchError, DataError, StoreError, is_out_of_memory, os_error_as
from benchbench.data import DataPlan, get_plan
from benchbench.data import folder as folders
from benchbench.runner.job import Job
from benchbench.training import evaluate as judging
from benchbench.training.case_pictures import Slice
from benchbench.training.metrics import Scores

if TYPE_CHECKING:
    from torch import nn

Emit = Callable[[dict[str, Any]], None]


def evaluate_cases(job: Job, request: Mapping[str, Any], emit: Emit) -> None:
    """Judge cases of a data set.

    Events: of networks `measurement` (their parameters), then for each case `case` (see `case_to_json`) or
    `unreadable` {index, error}; at the end `end` {status, error}.

    Args:
        job: says the data set, the split and the device.
        request: `cases`, their numbers; `members`, the jobs of the networks, none for label maps; `maps`, case ->
            label map; `slices`, the folder for what pictures need; `threads`.
        emit: gets the events.
    """
    try:
        _evaluate(job, request, emit)
    except BenchError as error:
        emit({"event": "end", "status": "failed", "error": str(error), "traceback": None})
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        emit(
            {"event": "end", "status": "oom", "error": f"out of memory: {error}".partition("\n")[0], "traceback": None}
        )
    else:
        emit({"event": "end", "status": "ok", "error": None, "traceback": None})


def _evaluate(job: Job, request: Mapping[str, Any], emit: Emit) -> None:
    where, split = str(job.data_where), str(job.workload.split)
    plan = get_plan(where)
    members = [rec.from_json(Job, member) for member in request["members"]]
    answer = _answer_of(members, plan, request["threads"], emit) if members else None
    for index in request["cases"]:
        try:
            prediction = (
                judging.predict_case(answer, plan, where, split, index)
                if answer
                else _label_map(plan, split, index, request["maps"])
            )
        except DataError as error:
            emit({"event": "unreadable", "index": index, "error": str(error)})
            continue
        scores = judging.judge(prediction, plan)
        if answer:  # of label maps the picture is made from the files
            _write_slice(slice_path(Path(request["slices"]), index), prediction.middle(plan))
        emit({"event": "case", "case": case_to_json(index, prediction.case.id, scores)})


def _answer_of(members: list[Job], plan: DataPlan, threads: int | None, emit: Emit) -> judging.Answer:
    """What segments an image: a network, or several together."""
    import torch

    from benchbench.measure.flops.graph import params_measurement
    from benchbench.training.ensemble import ensemble_of
    from benchbench.training.sliding_window import logits_of
    from benchbench.zoo.classes import allow_import

    if threads:
        torch.set_num_threads(threads)
    answers, params = [], 0
    for member in members:
        if member.trusted:  # as the command has decided
            allow_import(member.model.arch, member.folder)
        module, device = _network(member)
        work = member.workload
        params += sum(p.numel() for p in module.parameters())
        answers.append(
            functools.partial(
                logits_of,
                module,
                plan=plan,
                spatial=work.spatial,
                dtype=work.dtype,
                overlap=member.overlap,
                mirror=work.test_time_mirroring or (),
                device=device,
            )
        )
    emit({"event": "measurement", "measurement": rec.to_json(params_measurement(params, packed=0))})
    return answers[0] if len(answers) == 1 else ensemble_of(answers, plan)


def _network(member: Job) -> tuple[nn.Module, str]:
    """A network with its weights, and the device that it is on."""
    import torch

    from benchbench.zoo import build as zoo_build
    from benchbench.zoo import checkpoint

    device = f"cuda:{member.gpu}" if member.backend == "cuda" else "cpu"
    if member.backend == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32; PyTorch's default for convolutions is TF32
    module = zoo_build.build(member.model, member.workload.spatial)
    checkpoint.load_weights(module, Path(str(member.checkpoint_path)))
    return module.eval().to(device), device


class _MapError(BenchError):
    """A label map that cannot be compared: of the predictions, not of the data set."""


def _label_map(plan: DataPlan, split: str, index: int, maps: Mapping[str, str]) -> judging.Prediction:
    """A case whose regions come from a label map.

    Raises:
        DataError: the case itself cannot be read.
        BenchError: its label map cannot.
    """
    from benchbench.data.label_maps import load_pair
    from benchbench.data.volumes import load_label

    source, files, case = load_pair(plan, split, index)
    try:
        predicted = load_label(Path(maps[case.id]), files, source.labels)
    except DataError as error:
        raise _MapError(str(error)) from error
    regions = plan.to_regions(predicted)
    return judging.Prediction(case=case, regions=regions, network_case=case, network_regions=regions)


# -- a case as JSON

_METRICS = ("dice", "hd95_mm", judging.NSD)


def case_to_json(index: int, name: str, scores: Scores) -> dict[str, Any]:
    """A judged case: `index`, `id`, and for each metric a value per region, null where it does not count."""
    tables = judging.as_tables([scores])
    values = {metric: [v if np.isfinite(v) else None for v in tables[metric][0].tolist()] for metric in _METRICS}
    return {"index": index, "id": name, **values}


def is_case(case: Any, regions: int) -> bool:
    """Whether this is a judged case of a data set with so many regions."""
    return (
        isinstance(case, dict)
        and type(case.get("index")) is int
        and isinstance(case.get("id"), str)
        and all(
            isinstance(case.get(metric), list)
            and len(case[metric]) == regions
            and all(v is None or isinstance(v, (int, float)) for v in case[metric])
            for metric in _METRICS
        )
    )


def tables_of(cases: list[dict[str, Any]]) -> dict[str, judging.Table]:
    """Metric -> (cases, R), NaN where a value does not count."""
    return {
        metric: np.array([[np.nan if v is None else v for v in case[metric]] for case in cases], np.float64)
        for metric in _METRICS
    }


# -- slices, for the pictures


def slice_path(folder: Path, index: int) -> Path:
    """Where the slice of a case is kept until the pictures are made."""
    return folder / f"{index}.npz"


def _write_slice(path: Path, shown: Slice) -> None:
    """Keep a slice; one that is half written is not read, and then there is no picture."""
    with os_error_as(StoreError, f"cannot write {path}", "make room or choose another --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, id=np.array(shown.id), image=shown.image, reference=shown.reference, predicted=shown.predicted)


def read_slice(folder: Path, index: int) -> Slice | None:
    """A slice that was kept; None where it is gone, or damaged."""
    try:
        with np.load(slice_path(folder, index), allow_pickle=False) as file:
            return Slice(
                id=str(file["id"]), image=file["image"], reference=file["reference"], predicted=file["predicted"]
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def map_slice(plan: DataPlan, split: str, index: int, path: Path) -> Slice:
    """The slice of a case whose regions come from a label map.

    Raises:
        DataError: a file cannot be read any more.
    """
    from benchbench.data.label_maps import prepared_pair
    from benchbench.data.volumes import load_label
    from benchbench.training.case_pictures import middle_slice

    source, files = folders.case_files(plan, split, index)
    case, predicted = prepared_pair(plan, split, index, load_label(path, files, source.labels))
    return middle_slice(case, plan.to_regions(predicted), plan)
