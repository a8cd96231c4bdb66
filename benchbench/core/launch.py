"""Start of a Python process in which no file of the current folder takes the place of a library.

Python puts the current folder first for `-m` and `-c`, and so a `numpy.py` that lies there, perhaps in a data set
that was downloaded, would be imported by whatever starts. `-I` would not do: it also drops PYTHONPATH, which the user
has set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# What a child runs: `benchbench` is the very package of the parent, wherever that found it, and `''` is nowhere.
_START = """
import sys
if sys.path[:1] == [""]: del sys.path[0]
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("benchbench", sys.argv[1])
sys.modules["benchbench"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from runpy import run_module
module = sys.argv[2]
del sys.argv[:2]
run_module(module, run_name="__main__", alter_sys=True)
"""

#: The same where the package is the one that another Python has installed.
_START_INSTALLED = """
import sys
if sys.path[:1] == [""]: del sys.path[0]
from runpy import run_module
module = sys.argv[1]
del sys.argv[:1]
run_module(module, run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: str) -> list[str]:
    """The argument vector of a Python process that runs a module, as `-m` would."""
    package = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "__init__.py")
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-c", _START, package, module, *arguments]


def installed_command(python: str, module: str) -> list[str]:
    """The argument vector of a process that runs a module which another Python has installed."""
    return [python, "-c", _START_INSTALLED, module]


def environment_of_another(python: Path) -> dict[str, str]:
    """This process's environment for another Python, without what would give it this one's packages."""
    variables = environment({"PYTHONUNBUFFERED": "1"})
    for name in ("PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"):
        variables.pop(name, None)
    if "PYTHONPATH" in variables:
        entries = variables["PYTHONPATH"].split(os.pathsep)
        kept = [entry for entry in entries if not os.path.isdir(os.path.join(entry, "benchbench"))]
        variables["PYTHONPATH"] = os.pathsep.join(kept)
    if python.parent.name:
        variables["PATH"] = os.pathsep.join([str(python.parent), variables.get("PATH", "")])
    return variables


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a child, without empty parts of PYTHONPATH, which mean the current folder."""
    variables = {**os.environ, **(changes or {})}
    if "PYTHONPATH" in variables:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, variables["PYTHONPATH"].split(os.pathsep)))
    return variables


def current_folder_last() -> None:
    """For a process that was started by `-m`: the current folder, which Python has put first, goes to the end."""
    if not getattr(sys.flags, "safe_path", False) and sys.path[:1] in ([""], [os.getcwd()]):
        sys.path.append(sys.path.pop(0))
