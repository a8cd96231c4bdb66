"""Every command that a page, a message or the documentation shows is one that can be pasted."""

import re
import shlex
from pathlib import Path

import pytest

from benchbench.cli import main as cli_main
from benchbench.cli.parser import parse
from benchbench.core.errors import StoreError, command, data_flags
from benchbench.core.results import read_records
from benchbench.report import conditions

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: In a text: what stands for something that the reader has to put in.
OPEN = re.compile(r"\.\.\.|…|\[|<|\bCOMMAND\b|\bACTION\b")


def commands_of(text: str) -> list[str]:
    """Whole commands with flags, of code blocks and of code in lines."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(part.split()) for part in re.findall(r"`(bench [^`]*)`", text)]
    found = [re.split(r"\s+#\s|\s+&&\s|\s*[|;>]\s", line)[0] for line in [*lines, *inline] if line.startswith("bench ")]
    return [one for one in found if " --" in one and not OPEN.search(one)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_of_the_documentation_are_understood(page: Path) -> None:
    for one in commands_of(page.read_text()):
        words = shlex.split(one)[1:]
        if words[-1].startswith("--"):
            continue  # a flag that is spoken of
        if "--help" not in words and "--config" not in words:
            parse(words)


def test_the_command_of_a_committed_page_is_understood_and_leaves_a_place_for_the_folder() -> None:
    records = list(read_records(ROOT / "results" / "reference" / "hippocampus"))
    for group in conditions.group(records):
        words = shlex.split(conditions.reproduce(group))
        assert words[0] == "bench"
        options = parse(words[1:])
        assert options.data == "path/to/Task04_Hippocampus"


def test_a_key_becomes_flags() -> None:
    assert data_flags("phantom") == ["--data", "phantom"]
    assert shlex.join(data_flags("My set:0123abcd:list4567cdef:fold2:brats")) == (
        "--data 'path/to/My set' --fold 2 --empty-rule brats"
    )
    assert data_flags("T:0123abcd:all")[-2:] == ["--fold", "all"]


def test_words_are_quoted_for_a_shell() -> None:
    assert shlex.split(command("run", "--out", Path("my results"))) == ["bench", "run", "--out", "my results"]


def test_what_makes_missing_records_is_a_command(tmp_path: Path) -> None:
    folder = tmp_path / "no records"
    folder.mkdir()
    for file, kind in (("", "run"), ("job.json", "search"), ("search.json", "report")):
        if file:
            (folder / file).write_text("{}")
        with pytest.raises(StoreError) as caught:
            list(read_records(folder))
        words = shlex.split("bench " + str(caught.value).partition("bench ")[2].partition(";")[0])
        assert parse(words[1:]).command == kind
        assert str(folder) in words


def test_an_interrupted_run_says_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from benchbench.runner import run as runner_run

    out = tmp_path / "r d"

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner_run, "run", interrupted)
    run = ["run", "--models", "slim_unetr", "--out", str(out), "-q"]
    assert cli_main.main(run) == 130
    told = capsys.readouterr().err
    assert "nothing was finished yet" in told
    assert str(out) not in told
    out.mkdir()
    (out / "records.unfinished").write_text("{}\n")
    assert cli_main.main(run) == 130
    assert f"--out '{out}' goes on" in capsys.readouterr().err
