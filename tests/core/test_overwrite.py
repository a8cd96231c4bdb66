from pathlib import Path

import pytest

from benchbench.core.config import parse_json, read_toml
from benchbench.core.errors import CardError, DataError, StoreError
from benchbench.core.overwrite import check_output


def test_an_input_is_never_an_output_by_whatever_name(tmp_path: Path) -> None:
    scan, link = tmp_path / "scan", tmp_path / "link"
    scan.write_bytes(b"voxels")
    link.symlink_to(scan)
    for name in (scan, link, tmp_path / "." / "scan"):
        with pytest.raises(StoreError, match="is read by this command"):
            check_output(name, inputs=[scan], force=True)


def test_a_foreign_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    check_output(out)
    out.write_bytes(b"")
    check_output(out)
    out.write_bytes(b"thesis")
    with pytest.raises(StoreError, match="--force"):
        check_output(out, is_ours=lambda head: head.startswith(b"ours"))
    check_output(out, force=True)
    out.write_bytes(b"ours, of before")
    check_output(out, is_ours=lambda head: head.startswith(b"ours"))


def test_a_folder_is_no_output_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        check_output(tmp_path, kind=DataError, force=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "-Infinity",
        "1e999",
        "1" + "0" * 400,
        str(2**63),
        "[" * 200 + "]" * 200,
        "[" * 10**5,
        '"\\ud800"',
    ],
)
def test_what_is_no_strict_json_is_one_line(text: str) -> None:
    with pytest.raises(StoreError, match=r"^f line 1 is not valid JSON: .+$"):
        parse_json(text, "f line 1", StoreError)


def test_strict_json_is_read_as_it_is() -> None:
    assert parse_json(b'{"a": [1, -2.5, "\xc3\xa9", null, true]}', "f", StoreError) == {"a": [1, -2.5, "é", None, True]}


def test_toml_nested_without_end_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(CardError, match="is not valid TOML"):
        read_toml(path, "the card", CardError)
