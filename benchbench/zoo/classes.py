"""Import of network classes: which may be imported, and where a user's own are looked for.

To import a module is to run it. So whatever is not of `benchbench.models` is imported only where a person has named
it: as `pkg.module:Class`, by a card, or by `--trust` for weights that came with a name of their own. The refusal comes
before the import. Folders of a user are searched last, so that none of their files stands in for a library.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import os
import re
import sys
from types import ModuleType
from typing import Any

from benchbench.core.errors import CardError, first_line, named_line, unknown

_OURS = re.compile(r"benchbench\.models(\.[A-Za-z_]\w*)+:[A-Za-z_]\w*", re.ASCII)
_named: set[str] = set()  # `pkg.module:name` whose import somebody has allowed in this process
_folders: list[str] = []  # of one's own modules, which stand at the end of the import path


def may_import(path: str) -> bool:
    """Whether `pkg.module:name` is of benchbench, or one whose import was allowed."""
    return bool(_OURS.fullmatch(path)) or path in _named


def named() -> frozenset[str]:
    """Classes of a user's own whose import was allowed."""
    return frozenset(_named)


def allow_import(path: str, folder: str | None = None) -> None:
    """Let `pkg.module:name` be imported; a person has named it.

    Args:
        folder: where it may lie beside what names it; then the current folder is looked in.
    """
    if _OURS.fullmatch(path):
        return
    _named.add(path)
    wanted = list(dict.fromkeys([os.path.abspath(folder), os.getcwd()] if folder else [os.getcwd()]))
    others = [known for known in _folders if known not in wanted]
    sys.path[:] = [known for known in sys.path if known not in _folders]
    _folders[:] = [known for known in (*wanted, *others) if known not in sys.path]
    sys.path.extend(_folders)


def find(path: str, kind: str) -> Any:
    """What `pkg.module:name` names.

    Args:
        kind: `class`, a subclass of `torch.nn.Module`, or `function`.

    Raises:
        CardError: its import was not allowed, the module or the name is not there, or is something else.
    """
    module_name, _, name = path.partition(":")
    if not may_import(path):
        raise CardError(
            f"{path!r} is not part of benchbench and is named by a file, so its code is not run; if you trust it, "
            "add --trust, or trust=True in Python"
        )
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise CardError(f"{path!r} is of Python's own library and no {_ASKED[kind]}")
    module = _module(module_name, path)
    try:
        target = getattr(module, name)
    except Exception as error:  # a module may have a `__getattr__`, which may raise anything
        is_one = _is_network if kind == "class" else inspect.isfunction
        why = unknown(kind, name, [key for key, item in vars(module).items() if is_one(item)])
        raise CardError(f"in module {module_name!r} ({_file(module)}): {why}") from error
    if not (_is_network(target) if kind == "class" else inspect.isfunction(target)):
        what = f"the class {target.__name__}" if isinstance(target, type) else f"a {type(target).__name__}"
        raise CardError(f"{path!r} is {what}, not a {_ASKED[kind]}: it is not called")
    return target


_ASKED = {"class": "subclass of torch.nn.Module", "function": "function written in Python"}


def _is_network(item: Any) -> bool:
    from torch import nn

    return isinstance(item, type) and nn.Module in item.__mro__


def _module(name: str, path: str) -> ModuleType:
    importlib.invalidate_caches()
    _forget_one_of_another_folder(name.partition(".")[0])
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CardError(
            f"cannot import {name!r} for {path!r}: {first_line(error)}; "
            "is it installed, beside its card, or in the folder from which bench is run?"
        ) from error
    except SyntaxError as error:
        raise CardError(
            f"cannot import {name!r} for {path!r}: {error.msg}, {error.filename} line {error.lineno}"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything, and may call sys.exit()
        raise CardError(f"cannot import {name!r} for {path!r}: it ends in {named_line(error)}") from error


def _forget_one_of_another_folder(top: str) -> None:
    """A module of one's own that was imported from another folder than it would be now, under the same name."""
    loaded = sys.modules.get(top)
    spec = importlib.machinery.PathFinder.find_spec(top, _folders) if loaded else None
    if loaded is None or spec is None or spec.origin is None or not getattr(loaded, "__file__", None):
        return
    holder = os.path.dirname(str(loaded.__file__))
    if loaded.__file__ != spec.origin and any(folder in _folders for folder in (holder, os.path.dirname(holder))):
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "built in")
