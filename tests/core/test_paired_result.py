"""The record of a paired comparison comes back as it was written, and a file that is none is refused in one line."""

import dataclasses
import json

import pytest

from benchbench.core.errors import StoreError
from benchbench.core.paired_result import holds_pairs, read_pairs, write_pairs
from benchbench.core.results import PAIRS, read_records
from tests import paired_examples as examples


def test_what_is_written_is_read_again_with_the_same_verdict(tmp_path):
    kept = [
        examples.result(examples.around(1.05)),
        examples.result(error="B: its process was killed by SIGKILL", repeated=("B: killed",), interrupted=True),
        examples.result([], error="A: out of memory"),
    ]
    write_pairs(tmp_path / PAIRS, kept)
    assert list(read_pairs(tmp_path)) == kept == list(read_pairs(tmp_path / PAIRS))
    assert [result.verdict for result in read_pairs(tmp_path)] == ["slower", "failed", "failed"]
    content = json.loads((tmp_path / PAIRS).read_text())["comparisons"]
    assert [item["verdict"] for item in content] == ["slower", "failed", "failed"]  # for other programs


def spoiled(**changes):
    def spoil(content):
        content["comparisons"][0] |= changes
        return content

    return spoil


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda content: [], "is not the record of a paired comparison"),
        (lambda content: content | {"schema": 99}, "reads up to 1: upgrade it"),
        (lambda content: content | {"comparisons": 3}, "is not the record"),
        (lambda content: content | {"comparisons": []}, "holds no comparison"),
        (spoiled(margin=0), "margin must be above 0"),
        (spoiled(mode="alternate"), "comparisons[0].mode is 'alternate'"),
        (spoiled(sets=[{"blocks": [{"at_s": 0, "wall_s": {"a": [-1.0], "control": [], "b": []}}]}]), "must be above 0"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, spoil, expected):
    file = tmp_path / PAIRS
    write_pairs(file, [examples.result()])
    file.write_text(json.dumps(spoil(json.loads(file.read_text()))))
    with pytest.raises(StoreError) as caught:
        read_pairs(file)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_says_how_long_would_do():
    wide = examples.result(examples.around(1.0, noise=0.02))
    assert wide.verdict == "ambiguous"
    assert wide.needed_s > wide.spent.total_s
    assert dataclasses.replace(wide, error="A: killed").needed_s is None


def test_a_folder_of_a_comparison_is_known_by_its_record_unless_it_holds_a_run_too(tmp_path):
    assert not holds_pairs(tmp_path)
    write_pairs(tmp_path / PAIRS, [examples.result()])
    assert holds_pairs(tmp_path)
    assert holds_pairs(tmp_path / PAIRS)
    assert holds_pairs(tmp_path / f"page.{PAIRS}")
    with pytest.raises(StoreError, match="holds a paired comparison; its page and tables are made by: bench report"):
        read_records(tmp_path)
    (tmp_path / "records.jsonl").touch()
    assert not holds_pairs(tmp_path)
