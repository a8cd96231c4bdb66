"""Getting a public data set: only by name, checked, and one line when it fails."""

import hashlib
import tarfile

import pytest
from monai.apps import DecathlonDataset

from benchbench.core.errors import DataError
from benchbench.data import download as data_download
from benchbench.data.folder import open_source
from tests import data_sets as sets


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A small Task04 where MONAI's would be downloaded from."""
    sets.decathlon(tmp_path / "made" / "Task04_Hippocampus", count=2)
    archive = tmp_path / "served.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "made" / "Task04_Hippocampus", "Task04_Hippocampus")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(DecathlonDataset.resource, "Task04_Hippocampus", archive.as_uri())
    monkeypatch.setitem(DecathlonDataset.md5, "Task04_Hippocampus", md5)
    return archive


@pytest.mark.parametrize("name", ["msd:Task04", "msd:Task04_Hippocampus", "MSD:task04"])
def test_a_task_is_fetched_checked_and_unpacked(served, tmp_path, name):
    folder = data_download.fetch(name, tmp_path / "data")
    assert folder == tmp_path / "data" / "Task04_Hippocampus"
    assert len(open_source(folder).cases) == 2
    assert not list((tmp_path / "data").glob("*.tar"))


def test_one_that_is_there_is_left_as_it_is(served, tmp_path):
    folder = data_download.fetch("msd:Task04", tmp_path / "data")
    served.unlink()
    (folder / "mine").touch()
    assert data_download.fetch("msd:Task04", tmp_path / "data") == folder
    assert (folder / "mine").exists()


def test_what_is_not_what_it_should_be_is_said(served, tmp_path, monkeypatch):
    monkeypatch.setitem(DecathlonDataset.md5, "Task04_Hippocampus", "0" * 32)
    with pytest.raises(DataError, match="has another md5 than the original"):
        data_download.fetch("msd:Task04", tmp_path / "data")
    assert not (tmp_path / "data" / "Task04_Hippocampus").exists()


def test_a_download_that_fails_is_one_line(served, tmp_path):
    served.unlink()
    with pytest.raises(DataError, match=r"cannot get msd:Task04 from file:.* by hand") as caught:
        data_download.fetch("msd:Task04", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "Task04_Hippocampus").exists()


def test_what_needs_a_registration_says_where(tmp_path):
    with pytest.raises(DataError, match=r"register at synapse\.org"):
        data_download.fetch("brats2021", tmp_path)


def test_an_unknown_name(tmp_path):
    with pytest.raises(DataError, match=r"did you mean 'brats202[13]'"):
        data_download.fetch("brats2022", tmp_path)


def test_an_unpacking_that_was_killed_leaves_nothing_that_looks_whole(served, tmp_path):
    to = tmp_path / "data"
    sets.decathlon(to / ".Task04_Hippocampus.partial" / "Task04_Hippocampus", count=1)  # what a kill leaves
    assert len(open_source(data_download.fetch("msd:Task04", to)).cases) == 2
    assert [path.name for path in to.iterdir()] == ["Task04_Hippocampus"]


def test_a_folder_that_is_something_else_is_left_alone(served, tmp_path):
    (tmp_path / "data" / "Task04_Hippocampus").mkdir(parents=True)
    with pytest.raises(DataError, match=r"has no dataset\.json: move it away"):
        data_download.fetch("msd:Task04", tmp_path / "data")
    assert served.exists()
