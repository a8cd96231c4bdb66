"""Catalogue of public data sets, and the download of those that may be downloaded.

Nothing is ever downloaded unless `bench data fetch` names it. The archives of the Medical Segmentation Decathlon
are those that MONAI's DecathlonDataset gets, checked by the md5 sums that MONAI has for them.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from benchbench.core.errors import DataError, first_line, unknown


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A data set that people ask for."""

    name: str
    title: str
    licence: str
    how: str  # to get it
    archive: str = ""  # of MONAI's downloads; empty: it cannot be fetched from here
    gigabytes: float = 0.0  # of the download, about


_DECATHLON = (
    ("Task01_BrainTumour", "glioma, 4 contrasts of MRI", 7.1),
    ("Task02_Heart", "left atrium, MRI", 0.44),
    ("Task03_Liver", "liver and its tumours, CT", 27.0),
    ("Task04_Hippocampus", "hippocampus, anterior and posterior, MRI", 0.03),
    ("Task05_Prostate", "prostate, 2 contrasts of MRI", 0.23),
    ("Task06_Lung", "lung cancer, CT", 8.5),
    ("Task07_Pancreas", "pancreas and its tumours, CT", 11.4),
    ("Task08_HepaticVessel", "hepatic vessels and tumours, CT", 8.7),
    ("Task09_Spleen", "spleen, CT", 1.5),
    ("Task10_Colon", "colon cancer, CT", 5.8),
)

_KNOWN = (
    *(
        Known(
            name=f"msd:{task[:6]}",
            title=f"{task}: {title}",
            licence="CC-BY-SA 4.0",
            how=f"bench data fetch msd:{task[:6]}",
            archive=task,
            gigabytes=size,
        )
        for task, title, size in _DECATHLON
    ),
    Known(
        name="brats2021",
        title="BraTS 2021, adult glioma, 1251 labelled cases",
        licence="of the challenge",
        how="register at synapse.org (syn25829067), download, and give the folder",
    ),
    Known(
        name="brats2023",
        title="BraTS 2023 and 2024, adult glioma, before and after treatment",
        licence="of the challenge",
        how="register at synapse.org (syn51156910, syn53708249), download, and give the folder",
    ),
)


def list_known() -> tuple[Known, ...]:
    """Every data set that is known, whether it is here or not."""
    return _KNOWN


def fetch(name: str, to: Path) -> Path:
    """Download a data set and unpack it.

    Args:
        name: `msd:Task04`, also with the rest of the task's name.
        to: the folder that the data set's own folder is made in.

    Returns:
        The data set's folder. One that is there already is left as it is.

    Raises:
        DataError: unknown, not to be had without registration, a download that fails or differs from its checksum.
    """
    key = name[:10] if name.lower().startswith("msd:task") else name
    match = next((known for known in _KNOWN if known.name.lower() == key.lower()), None)
    if match is None:
        raise DataError(unknown("data set", name, [known.name for known in _KNOWN], hint="'bench data list' shows all"))
    if not match.archive:
        raise DataError(f"{match.name} cannot be fetched from here: {match.how}")
    folder = to / match.archive
    if (folder / "dataset.json").exists():
        return folder
    if folder.exists():
        raise DataError(f"{folder} is there and has no dataset.json: move it away, and fetch again")
    _download(match, to)
    return folder


def _download(known: Known, to: Path) -> None:
    import tarfile
    import urllib.error

    from monai.apps import DecathlonDataset
    from monai.apps.utils import HashCheckError, download_url

    partial = to / f".{known.archive}.partial"  # a killed download or unpacking leaves nothing that looks whole
    url, md5 = DecathlonDataset.resource[known.archive], DecathlonDataset.md5[known.archive]
    archive = to / f"{known.archive}.tar"
    try:
        to.mkdir(parents=True, exist_ok=True)
        download_url(url, archive, md5, hash_type="md5", progress=False)
        shutil.rmtree(partial, ignore_errors=True)
        _unpack(archive, partial)
        if not (partial / known.archive / "dataset.json").exists():
            raise DataError(f"the archive of {known.name} has no {known.archive}/dataset.json; it is kept: {archive}")
        os.replace(partial / known.archive, to / known.archive)
    except HashCheckError as error:
        raise DataError(
            f"{archive} has another md5 than the original, perhaps after a broken download: remove it and fetch again"
        ) from error
    except DataError:  # a ValueError, too
        raise
    except (OSError, EOFError, urllib.error.URLError, RuntimeError, ValueError, tarfile.TarError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise DataError(
            f"cannot get {known.name} from {url}: {reason}; it can also be downloaded by hand into {to}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    archive.unlink(missing_ok=True)


def _unpack(archive: Path, to: Path) -> None:
    """Unpack a tar that has files and folders alone, as those of data sets do."""
    import tarfile

    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            inner = PurePosixPath(member.name)
            if not (member.isreg() or member.isdir()) or inner.is_absolute() or ".." in inner.parts:
                raise DataError(
                    f"{archive} holds {member.name!r}, which is no file or folder in it; nothing is unpacked, and the "
                    "archive is kept"
                )
        # Pythons of before mid 2023 lack the filter; what it refuses has been refused, and modes are those of files
        extra: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(to, members, **extra)
