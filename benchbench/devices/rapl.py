"""Energy counters of an x86 processor's packages (RAPL), from the kernel's powercap framework.

A counter runs from 0 to `max_energy_range_uj` and starts again, at full load after some minutes; so two
readings far apart lose a round, and who measures long has to read now and then. On most systems only root
may read it, and then there is no sensor here.

Source: the Linux kernel's Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchbench.devices.cpu import ROOT, read_text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package's counter."""

    name: str  # `package-0`, verbatim
    folder: Path
    range_j: float  # where it starts again at 0

    def joules(self) -> float | None:
        """The counter now; None where it cannot be read."""
        text = read_text(self.folder / "energy_uj")
        return int(text) / 1e6 if text and text.isdigit() else None


def packages(root: Path = ROOT) -> list[Package]:
    """Every package whose counter can be read; empty if one cannot, since a part is no sum."""
    readable = []
    for folder in sorted(root.glob("sys/class/powercap/intel-rapl:*")):
        name, span = read_text(folder / "name") or "", read_text(folder / "max_energy_range_uj") or ""
        if folder.name.count(":") != 1 or not name.startswith("package"):
            continue  # a core or memory domain within a package
        package = Package(name=name, folder=folder, range_j=int(span) / 1e6 if span.isdigit() else 0.0)
        if package.joules() is None:
            return []
        readable.append(package)
    return readable
