"""Rows of a patient that networks prepare in different ways: one table, which says who sees what."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchbench import report
from benchbench.core import records as rec
from benchbench.report import conditions
from tests import report_examples as examples

PATIENT = (36, 50, 35)


def row(name: str, volume: tuple[int, ...], patient: tuple[int, ...] | None = None) -> rec.Record:
    """A record of a whole patient of a data set's folder."""
    record = examples.record(name)
    work = dataclasses.replace(
        record.workload, data="Task04_Hippocampus:0123abcd", split="test", volume=volume, patient=patient
    )
    time = examples.number("volume_latency_s", 0.2)
    return dataclasses.replace(record, workload=work, measurements=(*record.measurements, time))


def test_a_network_of_its_own_preparation_stands_beside_the_others(tmp_path: Path) -> None:
    rows = [row("nnunet", PATIENT), row("vnet", (30, 60, 30), PATIENT), row("slim_unetr", PATIENT)]
    (group,) = conditions.group(rows)
    assert "volume 36x50x35" in group.title
    said = "vnet prepares it as 30x60x30, and is timed on that"
    assert dict(conditions.facts(group))["Volume"].endswith(f"over all of it; {said}")
    page = report.write_report([examples.write(tmp_path / "r", rows)]).read_text()
    assert page.count("One patient of 36x50x35 voxels") >= 1
    assert page.count(said) > 1  # below the table, too


def test_the_command_that_measures_again_leaves_the_volume_to_the_data() -> None:
    (alike,), (mixed,) = (
        conditions.group(rows)
        for rows in ([row("unet", PATIENT)], [row("unet", PATIENT), row("vnet", (30, 60, 30), PATIENT)])
    )
    assert "--volume 36 50 35" in conditions.reproduce(alike)
    assert "--volume" not in conditions.reproduce(mixed)


def test_another_patient_is_another_table() -> None:
    rows = [row("nnunet", PATIENT), row("vnet", PATIENT, (40, 50, 35))]
    assert len(conditions.group(rows)) == 2
