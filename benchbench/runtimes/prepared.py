"""PreparedNetwork network: a file that a runtime runs, and the description beside it.

The description says whose file it is: network, weights, input, precision, versions, and for `bench predict` how images
are prepared and what the outputs mean. It holds the hash of every file, so that a damaged one is told as such.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from benchbench.core import records as rec
from benchbench.core.config import read_json
from benchbench.core.errors import UsageError, named_line, os_error_as
from benchbench.core.results import file_sha256, write_whole
from benchbench.core.units import format_shape
from benchbench.devices import cpu
from benchbench.runtimes.catalogue import Runtime, get_runtime, of_file

#: (B, C, D, H, W) float32 -> (B, K, D, H, W) float32, a copy that the next call leaves alone.
Forward = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

FORMAT = 1  # of the description
INPUT, OUTPUT = "image", "logits"  # names in its file


class PreparedError(UsageError):
    """A prepared network that cannot be used: damaged, of a newer version, or made for another input or machine."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparedNetwork:
    """A network that a runtime can load."""

    path: Path  # of the file that the runtime reads
    runtime: str
    dtype: str
    input_shape: tuple[rec.Size, ...]  # (B, C, D, H, W)
    model: rec.ModelSpec | None = None  # None: a module that was exported from Python
    rewritten: bool = False  # from the network's own `for_inference`
    seconds: Annotated[float, rec.AtLeast(0)] = 0.0  # that conversion and quantization took
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    made_for: str | None = None  # the processor or GPU, of a file that runs on no other
    calibration: Mapping[str, Any] | None = None  # of int8: data set, cases, patches
    data: str | None = None  # that the weights were trained on
    plan: Mapping[str, Any] | None = None  # its channels, preprocessing and regions, as in a checkpoint's sidecar
    mirror: tuple[int, ...] | None = None  # axes, 0 to 2, along which its training mirrored patches; None: not known
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name -> sha256
    format: rec.Size = FORMAT

    @property
    def of(self) -> Runtime:
        """The runtime."""
        return get_runtime(self.runtime)

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum((self.path.parent / name).stat().st_size for name in self.files)

    @property
    def how(self) -> str:
        """A few words for the method of a measurement."""
        made_by = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        form = ", network rewritten for inference" if self.rewritten else ""
        return f"{self.of.title} in {self.dtype}{form} ({made_by})"

    def load(self, *, threads: int | None = None, gpu: int = 0) -> Forward:
        """Load the file into this process.

        Args:
            threads: of the runtime; None: as many as it chooses.

        Raises:
            PreparedError: it is damaged, or was made for another machine.
            UnsupportedError: the runtime is not installed, or cannot run it here.
        """
        from benchbench.core.errors import BenchError, UnsupportedError

        if why := self.of.missing():
            raise UnsupportedError(why)
        library = self.of.load()
        try:
            if not hasattr(library, "bound"):  # else it compares with its GPU
                check_made_for(self, cpu.name())
            forward: Forward = library.open_file(self, threads, gpu)
        except (BenchError, MemoryError):
            raise
        except Exception as error:  # whatever a library raises for a file that it cannot read
            raise PreparedError(
                f"{self.path} cannot be loaded by {self.of.title}: {named_line(error)}; export it again"
            ) from error

        def checked(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            if tuple(x.shape) != self.input_shape:
                raise PreparedError(
                    f"{self.path.name} takes an input of {format_shape(self.input_shape)}, not "
                    f"{format_shape(tuple(x.shape))}: export it again for that input"
                )
            return forward(x)

        return checked


def description_of(path: Path) -> Path:
    """The description beside a prepared network's file: `nnunet_small-int8.xml.json`."""
    return path.with_name(f"{path.name}.json")


def check_made_for(prepared: PreparedNetwork, here: str) -> None:
    """Refuse a file that was made for another machine; one that was made for none runs on any.

    Args:
        here: processor or GPU of this machine, as `made_for` names it.

    Raises:
        PreparedError: it was made for another.
    """
    if prepared.made_for not in (None, here):
        raise PreparedError(
            f"{prepared.path.name} was made for {prepared.made_for}, and this is {here}: export the network here"
        )


def describe(prepared: PreparedNetwork) -> Path:
    """Write the description of a prepared network beside it; returns its path.

    Raises:
        OSError: it cannot be written.
    """
    content = rec.to_json(prepared)
    del content["path"]  # it stands beside it
    path = description_of(prepared.path)
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return path


def with_files(prepared: PreparedNetwork, *paths: Path) -> PreparedNetwork:
    """The same with the hashes of its files."""
    return dataclasses.replace(prepared, files={path.name: _sha256(path) for path in paths})


def read_prepared(path: Path, *, verify: bool = True) -> PreparedNetwork:
    """A prepared network from its file.

    Args:
        path: of the file.
        verify: compare every file with its hash.

    Raises:
        PreparedError: there is none, it is damaged, or of a newer version.
        UsageError: no runtime has files of that ending.
    """
    of_file(path.suffix)
    description = description_of(path)
    if not description.exists():
        missing = path if not path.exists() else description
        raise PreparedError(f"no {missing}: 'bench export' writes a network with its description, keep both together")
    data = read_json(description, "the description of an exported network", PreparedError)
    try:
        known = rec.value_from_json(Mapping[str, Any], data, "it")
        if isinstance(known.get("format"), int) and known["format"] > FORMAT:
            raise PreparedError(f"{description} is of a newer version of benchbench (format {known['format']}): update")
        prepared = rec.from_json(PreparedNetwork, {**known, "path": path})
        get_runtime(prepared.runtime)
    except (KeyError, TypeError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise PreparedError(f"{description} describes no exported network: {what}") from error
    if path.name not in prepared.files:
        raise PreparedError(f"{description} describes another file than {path.name}: export the network again")
    for name, digest in prepared.files.items():
        file = description.parent / Path(name).name
        if not file.exists():
            raise PreparedError(f"{file} is missing, and {description.name} names it: export the network again")
        if verify and _sha256(file) != digest:
            raise PreparedError(
                f"{file} is damaged or not the file that {description.name} describes: export the network again"
            )
    return prepared


def load_runtime(path: str | Path, *, threads: int | None = None, gpu: int = 0) -> Callable[[Any], Any]:
    """An exported network as a function, in the runtime that its file is of.

    Args:
        path: of a file that `bench export` or `benchbench.export` has written.
        threads: of the runtime; None: as many as it chooses.
        gpu: number of the GPU, of TensorRT.

    Returns:
        (B, C, D, H, W) float32 -> (B, K, D, H, W) float32, an array for an array, a tensor for a tensor.

    Raises:
        PreparedError: it is damaged, of a newer version, or was made for another machine.
        UnsupportedError: its runtime is not installed.
    """
    return for_arrays_and_tensors(read_prepared(Path(path)).load(threads=threads, gpu=gpu))


def for_arrays_and_tensors(forward: Forward) -> Callable[[Any], Any]:
    """A forward of arrays that takes tensors as well, and gives a tensor for one, on its device."""

    def call(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return forward(np.ascontiguousarray(x, np.float32))
        import torch

        return torch.from_numpy(forward(np.ascontiguousarray(x.detach().cpu().numpy(), np.float32))).to(x.device)

    return call


def _sha256(path: Path) -> str:
    with os_error_as(PreparedError, f"cannot read {path}"):
        return file_sha256(path)
