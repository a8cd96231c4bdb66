"""Commands that come after a choice: the file for the device, what to measure to be sure, and what would help."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from benchbench.core import records as rec
from benchbench.core.errors import PLACE, command, training_flags
from benchbench.core.evaluation import PROTOCOL, is_evaluation
from benchbench.core.units import format_value
from benchbench.report import conditions
from benchbench.report.choice.known import Limit, Quantity
from benchbench.report.choice.rank import Choice, Row

#: Where the weights of a record's network are, as a person can type it.
FindWeights = Callable[[rec.Record], str]

#: Runtime -> `bench export --to`, of those that have a file.
FORMS = {
    "openvino": "openvino",
    "onnxruntime": "onnx",
    "tensorrt": "tensorrt",
    "torch-export": "torch-export",
}


def unplaced_weights(record: rec.Record) -> str:
    """A place for the weights, whose name alone a record tells; of a network without any, its name."""
    if record.model.checkpoint is None:
        return record.model.name
    return f"{PLACE}{re.sub(r'[^A-Za-z0-9_.-]', '-', record.model.name)}.safetensors"


def export(row: Row, find: FindWeights, *, int8: bool = False) -> str:
    """The command that writes the file for the device.

    Args:
        int8: in that precision, whatever the row's.
    """
    work = row.record.workload
    has_file = work.runtime in FORMS
    dtype = "int8" if int8 else work.dtype if has_file else "fp32"
    words = ["export", find(row.dice_record), "--to", FORMS.get(work.runtime, "openvino"), "--dtype", dtype]
    if dtype == "int8":
        words += ["--int8-accuracy", f"{work.int8_accuracy:g}"] if work.int8_accuracy else []
        words += _cases_to_learn_from(work)
    return command(*words)


def train(record: rec.Record, budget: str = "1h") -> str:
    """The command that trains the network longer."""
    work = record.workload
    name = str((record.recipe or {}).get("root", record.model.name))
    return command("train", name, *_cases_to_learn_from(work), "--spatial", *work.spatial, "--budget", budget)


def _cases_to_learn_from(work: rec.Workload) -> list[str]:
    """The flags of a data set that is split: where every case is a test case, there is none to learn from."""
    if work.data is None:
        return ["--data", "phantom"]
    words = training_flags(work.data)
    return words if words[-1] != "all" else words[:-2]


def measure(
    row: Row,
    find: FindWeights = unplaced_weights,
    *,
    protocol: str | None = None,
    runtime: str | None = None,
    dtype: str | None = None,
    spatial: tuple[int, ...] | None = None,
) -> str:
    """The command that measures a row again, where it was asked for; a forecast's on the device itself.

    Args:
        row: which one.
        find: tells where its weights are.
        protocol: another one than the row's, as the other arguments.
    """
    record = row.record
    timed = "quick" if is_evaluation(record) else record.workload.protocol
    work = dataclasses.replace(
        record.workload,
        protocol=protocol or timed,
        runtime=runtime or record.workload.runtime,
        spatial=spatial or record.workload.spatial,
    )
    forecast = record.device.basis == "profile"
    kind = {"jetson": "jetson", "cuda": "cuda"}.get(record.device.kind, "cpu")
    asked = kind if forecast else record.device.asked
    again = dataclasses.replace(
        record,
        model=dataclasses.replace(record.model, name=find(row.dice_record)),
        device=dataclasses.replace(record.device, asked=asked),
        workload=work,
        recipe=None,
    )
    text = conditions.reproduce(conditions.Group(letter="", records=(again,)))
    if dtype:
        text = text.replace(f"--dtype {work.dtype}", f"--dtype {dtype}", 1)
    if forecast and work.threads and "--threads" not in text:
        text = text.replace(" --protocol", f" --threads {work.threads} --protocol", 1)
    return f"{text} --require-measured" if forecast else text


def evaluate(row: Row, find: FindWeights) -> str:
    """The command that measures the Dice of a row's network, here, without timing it."""
    record, work = row.record, row.record.workload
    plain = dataclasses.replace(work, protocol=PROTOCOL, runtime="eager", dtype="fp32", data=work.data or "phantom")
    model = dataclasses.replace(record.model, name=find(row.dice_record))
    return conditions.reproduce(
        conditions.Group(letter="", records=(dataclasses.replace(record, model=model, workload=plain, recipe=None),))
    )


def search(choice: Choice, first: Row) -> str | None:
    """The command that searches for a network within the limits of cost; None where there is none of them."""
    units = {"time": "s", "memory": "B", "file": "B"}
    limits = []
    for limit in choice.limits:
        if limit.quantity in units:
            text = format_value(limit.value, units[limit.quantity]).replace(" ", "")
            limits.append(f"{text}file" if limit.quantity == "file" else text)
    if not limits:
        return None
    return command("search", "--budget", *limits, *_cases_to_learn_from(first.record.workload))


def to_be_sure(row: Row, find: FindWeights) -> str | None:
    """What to measure so that nothing about a row is unsure; None where a measurement would not help.

    A Dice gets a narrower interval by more cases alone.
    """
    forecast = row.record.device.basis == "profile"
    unsure = [quantity for quantity in row.unsure if quantity != "dice"]
    if not forecast and not unsure and row.record.status != "unstable":
        return None
    protocol = "standard"
    if not forecast and row.record.workload.protocol.startswith("standard"):
        protocol = "thorough"
    return measure(row, find, protocol=protocol)


def helps(limit: Limit, nearest: Row, choice: Choice, find: FindWeights) -> list[tuple[str, str]]:
    """What would bring the nearest row within a limit: what it does, and its command."""
    record, work = nearest.record, nearest.record.workload
    steps: list[tuple[str, str]] = []
    quantity = limit.quantity
    if nearest.verdicts.get(quantity) == "not sure" and quantity != "dice":
        again = to_be_sure(nearest, find)
        return [("measure it to be sure", again)] if again else steps
    if quantity == "dice":
        steps.append(("train it longer", train(record)))
        return steps
    smaller = _smaller_patch(work)
    if quantity in ("memory", "time") and smaller and record.device.basis == "probed":
        steps.append(("take a smaller patch", measure(nearest, find, spatial=smaller)))
    runtime = work.runtime if work.runtime in FORMS else "openvino"
    if not _was_tried(record, runtime, choice) and record.device.basis == "probed":
        if quantity == "file":
            steps.append(("take int8", export(nearest, find, int8=True)))
        elif record.model.checkpoint:
            steps.append(("take int8", measure(nearest, find, runtime=runtime, dtype="int8")))
    found = search(choice, nearest)
    if found and quantity != "energy":
        steps.append(("search for a smaller network", found))
    return steps


def _was_tried(record: rec.Record, runtime: str, choice: Choice) -> bool:
    """Whether there is a row of this network in int8 in this runtime."""
    tried = [r for r in choice.group.records if conditions.path_of(r) == (runtime, "int8")]
    return any(r.model == record.model for r in tried)


def _smaller_patch(work: rec.Workload) -> tuple[int, ...] | None:
    """Three quarters of each side, in multiples of 32; None where the data give each network its patch."""
    if conditions.has_own_patches(work):
        return None
    sides = tuple(max(32, side * 3 // 4 // 32 * 32) for side in work.spatial)
    return sides if sides != work.spatial else None


def not_recorded(quantity: Quantity, rows: Sequence[Row], find: FindWeights) -> str:
    """The command that measures what no row has."""
    row = rows[0]
    record = row.record
    if quantity == "dice" and record.model.checkpoint is None:
        return train(record, "20min")
    if quantity == "dice":
        return evaluate(row, find)
    if quantity == "file" and record.workload.runtime not in FORMS:
        return measure(row, find, runtime="openvino")
    return measure(row, find)
