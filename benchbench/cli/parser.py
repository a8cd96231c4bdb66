"""Argument parser of `bench`: its commands, the flags that several of them have, and errors that name the nearest flag.

argparse, which imports in milliseconds; only the command that is asked for is imported, which adds its own flags. A
`--config` file is read as flags placed before those of the command line, so it can say nothing that a flag cannot, and
the command line wins.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchbench.core import arguments as to
from benchbench.core.config import read_toml
from benchbench.core.errors import UsageError, unknown
from benchbench.core.version import __version__

DESCRIPTION = "Which 3D medical segmentation network fits my device, how good is it there, and can it be made smaller?"
EXAMPLES = """\
examples:
  bench run --models all                          measure the zoo here and write a report
  bench run --models slim_unetr,unetr --spatial 96 96 96 --out results/local/try
  bench run --models all --device jetson          no Jetson at hand: a labelled prediction
  bench search --budget 2GB                       networks that fit, trained, as a Pareto front
  bench audit --models all                        every FLOP counter side by side, and which is wrong
  bench compare results/local/a results/local/b   what became slower, and exit 1 if anything did
  bench data check /data/BraTS2021                is this data set as it should be
  bench report results/local/try                  the report again, from the records alone
  bench devices add jetson ssh://user@orin        a board to measure on, and then:
  bench devices doctor jetson                     what is there, what is missing, what to do
  bench calibrate                                 a profile of this machine, to forecast any network from
  bench list models                               what there is
"""

#: Each command, a module of `benchbench.cli.commands` with its flags (`add`) and its handler (`run`), and what it does.
COMMANDS: Mapping[str, str] = {
    "list": "models, devices or data sets that there are",
    "run": "measure, or predict, networks on devices and write a report",
    "audit": "count parameters and MACs by every counter, and say which is wrong, by how much and why",
    "compare": "what became slower, larger or worse from one set of records to another; exit 1 if any did",
    "report": "write the report of results folders again, from their records alone",
    "train": "train one network on a data set, by the one recipe",
    "compress": "a smaller network from a trained one: channels cut, then trained on",
    "search": "networks that fit a budget: a Pareto front of Slim UNETR variants, each trained",
    "calibrate": "time this device's operators, so that any network can be forecast for it",
    "predict": "segment images with trained weights; the result lies exactly over its image",
    "data": "data sets: what there is, how to get one, whether one is as it should be",
    "devices": "where networks can be measured: list, add and remove hosts, and examine them",
    "info": "what benchbench sees of this machine",
}

#: Settings of the flags that several commands have.
_SHARED: Mapping[str, Mapping[str, Any]] = {
    "--models": {
        "default": "all",
        "metavar": "WHICH",
        "help": "networks: all | names and globs, by commas | card.toml | weights.safetensors | pkg.module:Class "
        "(default: all)",
    },
    "--in-channels": {
        "type": to.positive,
        "metavar": "N",
        "help": "channels of the image (default: the data set's, or the card's: 4)",
    },
    "--out-channels": {
        "type": to.positive,
        "metavar": "N",
        "help": "channels of the output (default: the data set's, or the card's: 3)",
    },
    "--trust": {
        "action": "store_true",
        "help": "import the class that weights name even if it is not part of benchbench: its code then runs here",
    },
    "--checkpoint": {"type": Path, "metavar": "FILE", "help": "trained weights (.safetensors)"},
    "--data": {
        "default": "phantom",
        "metavar": "NAME|DIR",
        "help": "data set to train on, or its folder (default: phantom)",
    },
    "--fold": {
        "type": to.fold,
        "metavar": "N",
        "help": "which of the five folds is kept apart as the test cases (default: 0)",
    },
    "--spatial": {"nargs": 3, "type": to.positive, "metavar": ("D", "H", "W")},
    "--volume": {"nargs": 3, "type": to.positive, "metavar": ("D", "H", "W")},
    "--overlap": {
        "type": to.share,
        "default": 0.5,
        "metavar": "SHARE",
        "help": "overlap of neighbouring windows, as a share of their sides (default: 0.5)",
    },
    "--batch-size": {
        "dest": "batch",
        "type": to.positive,
        "metavar": "N",
        "help": "patches per training step (default: 2, or 1 if they are large)",
    },
    "--device": {
        "default": "cpu",
        "choices": ("cpu", "cuda"),
        "help": "device to compute on (default: cpu)",
    },
    "--dtype": {
        "default": "auto",
        "choices": ("auto", "fp32", "bf16"),
        "help": "precision of the training; auto: autocast to bf16 where that is faster (default: auto)",
    },
    "--threads": {"type": to.positive, "metavar": "N", "help": "CPU threads (default: PyTorch's own choice)"},
    "--protocol": {
        "type": to.protocol,
        "default": "quick",
        "metavar": "NAME[,KEY=NUMBER]",
        "help": "how often measurements are repeated: quick, standard (five processes) or thorough, or numbers of your "
        "own, such as standard,processes=8,half_width=0.02 (default: quick)",
    },
    "--seed": {
        "type": to.natural,
        "default": 0,
        "metavar": "N",
        "help": "seed of the random numbers (default: 0)",
    },
    "--out": {
        "type": Path,
        "metavar": "DIR",
        "help": "folder for the results; the same one again goes on there (default: a new one under results/local)",
    },
    "--fresh": {
        "action": "store_true",
        "help": "start over in --out: what is there is set aside, as .old, .old.2, ...",
    },
    "--force": {"action": "store_true"},
    "--format": {
        "default": "table",
        "choices": ("table", "json", "csv", "markdown"),
        "help": "format of the output (default: table)",
    },
    "--events": {
        "choices": ("json",),
        "help": "print each event as a line of JSON on stdout as it happens, and nothing else, for another program",
    },
    "--config": {
        "metavar": "FILE.toml",
        "help": "file with these flags as keys; flags on the command line win",
    },
}

#: What a word without a flag is called in an error.
_SPOKEN = {"command": "command", "what": "list", "action": "action"}


class _Parser(argparse.ArgumentParser):
    """argparse, with one-line errors that name the nearest flag or command."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = action.option_strings[0] if action.option_strings else _SPOKEN[action.dest]
            raise UsageError(
                unknown(kind, str(value), [str(c) for c in action.choices], hint=f"see '{self.prog} --help'")
            )

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if isinstance(error.__context__, UsageError):  # it says what is expected
                raise argparse.ArgumentError(action, str(error.__context__)) from error
            raise


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command line; `handler` is the function that carries them out.

    Raises:
        UsageError: an unknown command, flag or value, with the nearest one that is known.
    """
    if any("\0" in argument for argument in arguments):
        raise UsageError("an argument holds a NUL character, which no name or path can")
    arguments = _with_signs(arguments)
    parser = _build_parser(next((a for a in arguments if not a.startswith("-")), None))
    options, left = parser.parse_known_args(arguments)
    if getattr(options, "config", None):
        options, left = _with_config(parser, arguments, options)
    if left:
        action = getattr(options, "action", None)
        known = sorted(_flags(parser, options.command, action))
        flag = next((a for a in left if a.startswith("-")), left[0])
        if flag in known:
            raise UsageError(f"{flag} belongs after the command: bench {options.command} {flag}")
        raise UsageError(
            unknown(
                "flag" if flag.startswith("-") else "argument",
                flag.partition("=")[0],
                known if flag.startswith("-") else (),
                hint=f"see 'bench {options.command}{f' {action}' if action else ''} --help'",
            )
        )
    return options


def _with_signs(arguments: Sequence[str]) -> list[str]:
    """`--budget -1GB` as one word, so that it is judged as a budget and not as a flag."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--budget" and re.match(r"-[\d.]", argument):
            joined[-1] = f"--budget={argument}"
        else:
            joined.append(argument)
    return joined


def _flags(parser: argparse.ArgumentParser, command: str, action_name: str | None = None) -> set[str]:
    subparser = _subparsers(parser)[command]
    if action_name:
        subparser = _subparsers(subparser)[action_name]
    return {flag for action in subparser._actions for flag in action.option_strings}


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def _with_config(
    parser: argparse.ArgumentParser, arguments: Sequence[str], options: argparse.Namespace
) -> tuple[argparse.Namespace, list[str]]:
    """Parse again with a TOML file's values as defaults; flags on the command line win."""
    path = Path(options.config)
    values = read_toml(path, "--config", UsageError)
    flags = {f for f in _flags(parser, options.command) if f.startswith("--")} - {"--help", "--config"}
    before: list[str] = []
    for key, value in values.items():
        if f"--{key}" not in flags:
            raise UsageError(f"--config {path}: {unknown('key', key, [f[2:] for f in flags])}")
        if value is True:
            before.append(f"--{key}")
        elif value is not False:
            items = value if isinstance(value, list) else [value]
            if any("\0" in str(item) for item in items):
                raise UsageError(
                    f"--config {path}: the value of {key!r} holds a NUL character, which no name or path can"
                )
            before += [f"--{key}", *map(str, items)]
    at = list(arguments).index(options.command) + 1
    return parser.parse_known_args([*arguments[:at], *before, *arguments[at:]])


def _build_parser(asked: str | None) -> argparse.ArgumentParser:
    """Every command, and the flags of the one that is asked for."""
    parser = _Parser(
        prog="bench",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"benchbench {__version__}")
    add = _adder(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    for name, text in COMMANDS.items():
        sub = add(name, text)
        if name == asked:
            module = importlib.import_module(f"benchbench.cli.commands.{name}")
            module.add(sub)
            sub.set_defaults(handler=module.run)
    return parser


def _adder(commands: Any) -> Callable[[str, str], argparse.ArgumentParser]:
    """A function that adds a command, or an action of one, from its name and what it does."""
    common = _Parser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true", help="show errors only, no progress")
    common.add_argument(
        "-v", "--verbose", action="store_true", help="show progress also without a terminal; tracebacks"
    )

    def add(name: str, text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=[common], allow_abbrev=False
        )
        return added

    return add


def actions(sub: argparse.ArgumentParser) -> Callable[[str, str], argparse.ArgumentParser]:
    """A function that adds an action below a command, from its name and what it does."""
    return _adder(sub.add_subparsers(dest="action", metavar="ACTION"))


def add_shared(sub: argparse.ArgumentParser, *flags: str, **settings: Any) -> None:
    """Add flags that several commands have.

    Args:
        sub: the command.
        flags: such as `--out`.
        settings: for `add_argument`, where they differ from those of the other commands.
    """
    for flag in flags:
        sub.add_argument(flag, **{**_SHARED[flag], **settings})


def add_fields(sub: argparse.ArgumentParser, request: type) -> None:
    """Add a flag for each field of a request that was declared with `core.arguments.flag`."""
    for field in dataclasses.fields(request):
        settings = {"default": field.default, **field.metadata, "dest": field.name}
        flag = settings.pop("flag")
        sub.add_argument(flag, **{**_SHARED.get(flag, {}), **settings})


def values_of(request: type, options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that the options have a value for."""
    values = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(request)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}
