"""Argument parser of `bench`: its commands, the flags that several of them have, and errors that name the nearest flag.

argparse, which imports in milliseconds; only the command that is asked for is imported, which adds its own flags. A
`--config` file is read as flags placed before those of the command line, so it can say nothing that a flag cannot, and
the command line wins.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from benchbench.core import arguments as to
from benchbench.core.config import read_toml
from benchbench.core.errors import UsageError, unknown
from benchbench.core.version import __version__

DESCRIPTION = "Which 3D medical segmentation network fits my device, how good is it there, and can it be made smaller?"
#: What `bench` says without a command.
START = f"""\
benchbench {__version__}: which 3D medical segmentation network fits my device, how good is it there, and can it be made
smaller? Nothing was started. The usual first commands:

  bench run                               four networks on this machine, some minutes: a table, and a page
  bench run --models nets/mine,nnunet_small --data DIR
                                          your own network ('bench import') beside another, with Dice on your data
  bench search --budget 2GB --data DIR    a smaller one for your data, found and trained within a budget, 30 minutes

'bench --help' lists all commands, 'bench COMMAND --help' the flags of one."""
EXAMPLES = """\
examples:
  bench run                                       measure four networks here and write a report
  bench run --models all                          measure all networks
  bench run --models slim_unetr,unetr --spatial 96 96 96 --out results/local/try
  bench run --models all --device jetson          without a Jetson: a prediction, labelled as such
  bench search --budget 2GB                       networks that fit into 2 GB, trained, as a Pareto front
  bench audit --models all                        every FLOP counter side by side, and which is wrong
  bench compare results/local/a results/local/b   what became slower; exit 1 if anything did
  bench compare --measure slim_unetr unetr        two networks now, in pairs: right on a busy machine, too
  bench choose results/local/a --max-latency 1s   which network to take, and how sure that is
  bench data check /data/BraTS2021                look for faults in a data set
  bench watch results/local/try                   how far a run is, from another terminal
  bench report results/local/try                  write the report again, from the records alone
  bench devices add jetson ssh://user@orin        add a board to measure on
  bench devices doctor jetson                     what the board has, what it lacks, and what to do
  bench evaluate slim_unetr nets/mine --data DIR  Dice and surface distances alone, with the paired test
  bench export W.safetensors --to openvino        the file that goes to a device
  bench import nnUNet_results/.../nnUNetTrainer__nnUNetPlans__3d_fullres --fold 0 --out nets/hippo
  bench calibrate                                 time this machine, to forecast any network for it
  bench list models                               list the networks
"""

#: Each command, a module of `benchbench.cli.commands` with its flags (`add`) and its handler (`run`), and what it does.
COMMANDS: Mapping[str, str] = {
    "list": "list the models, devices or data sets that are available",
    "run": "measure networks on devices, or predict their cost there, and write a report",
    "audit": "count parameters and MACs with every counter, and show which is wrong, by how much and why",
    "compare": "compare two sets of records, or measure two networks in pairs: what became slower, larger or worse; "
    "exit 1 if anything did",
    "choose": "say which network to take, from records, under limits; exit 1 if none is known to keep them",
    "report": "write the report of results folders again, from their records alone",
    "watch": "show how far a run or a search is, and what it has found so far",
    "train": "train one network on a data set, by the same recipe as all others",
    "compress": "make a trained network smaller: remove channels, then fine-tune it",
    "search": "search for Slim UNETR variants within a budget, train them, and give their Pareto front",
    "calibrate": "time the operators of this device, so that the latency of any network can be forecast for it",
    "export": "write the file that goes to a device (OpenVINO, ONNX, TensorRT, torch.export), or a MONAI bundle",
    "evaluate": "Dice, HD95 and surface Dice of networks, ensembles or finished label maps; nothing is timed",
    "import": "take in a network that was trained elsewhere (nnU-Net, MONAI, a file), for every other command",
    "predict": "segment images with trained weights; the label map lies exactly over its image",
    "data": "list, download, check, prepare and split data sets",
    "devices": "list, add, remove and examine the machines that networks can be measured on",
    "info": "show what benchbench knows of this machine",
}

_SIDES: Mapping[str, Any] = {"nargs": 3, "type": to.positive, "metavar": ("D", "H", "W")}

#: Settings of the arguments that several commands have.
_SHARED: Mapping[str, Mapping[str, Any]] = {
    "model": dict(metavar="MODEL", help="network of the checkpoint: a name, a card, or pkg.module:Class"),
    "--models": dict(
        default="all",
        metavar="WHICH",
        help="networks: 'all', or names, globs, card.toml, weights.safetensors, folders of 'bench import' and "
        "pkg.module:Class, separated by commas (default: all)",
    ),
    "--in-channels": dict(
        type=to.positive, metavar="N", help="channels of the image (default: of the data set, else of the model's card)"
    ),
    "--out-channels": dict(
        type=to.positive,
        metavar="N",
        help="channels of the output (default: of the data set, else of the model's card)",
    ),
    "--trust": dict(
        action="store_true",
        help="import the class that a file of weights names even if it is not part of benchbench; this runs its code",
    ),
    "--checkpoint": dict(
        type=Path,
        metavar="FILE",
        help="trained weights (.safetensors, or a folder of 'bench import'); not needed if MODEL is such a path",
    ),
    "--data": dict(metavar="NAME|DIR", help="data set to train on, by its name or its folder (default: phantom)"),
    "--fold": dict(
        type=to.fold, metavar="N", help="which of the five folds is held out as the test cases (default: 0)"
    ),
    "--spatial": _SIDES,
    "--volume": _SIDES,
    "--empty-rule": dict(
        choices=("brats", "exclude"),
        help="Dice of a region that neither the label nor the prediction has: 1 (brats) or left out (exclude) "
        "(default: brats for the regions of BraTS, else exclude)",
    ),
    "--overlap": dict(
        type=to.share,
        default=0.5,
        metavar="SHARE",
        help="overlap of neighbouring windows, as a share of their sides (default: 0.5)",
    ),
    "--test-time-mirroring": dict(
        action="store_true",
        help="average the logits over the mirror images of each patch, along the axes that its weights were trained "
        "with: two forwards for one axis, four for two",
    ),
    "--batch-size": dict(
        type=to.positive, metavar="N", help="patches per training step (default: 2, or 1 if they are large)"
    ),
    "--device": dict(default="cpu", choices=("cpu", "cuda"), help="device to compute on (default: cpu)"),
    "--dtype": dict(help="precision of the training; auto: autocast to bf16 where that is faster (default: auto)"),
    "--threads": dict(type=to.positive, metavar="N", help="CPU threads (default: PyTorch's own choice)"),
    "--protocol": dict(
        type=to.protocol,
        metavar="NAME[,KEY=NUMBER]",
        help="how often measurements are repeated: quick, standard (five processes) or thorough, also with other "
        "numbers, such as standard,processes=8,half_width=0.02 (default: quick)",
    ),
    "--seed": dict(type=to.natural, metavar="N", help="seed of the random numbers (default: 0)"),
    "--out": dict(
        type=Path,
        metavar="DIR",
        help="folder for the results; given again, the same command goes on there (default: a new folder under "
        "results/local)",
    ),
    "--fresh": dict(
        action="store_true", help="start over in --out; what is there is renamed to end in .old, .old.2, ..."
    ),
    "--force": dict(action="store_true"),
    "--format": dict(
        default="table", choices=("table", "json", "csv", "markdown"), help="format of the output (default: table)"
    ),
    "--events": dict(
        choices=("json",),
        help="print each event as a line of JSON on stdout as it happens, and nothing else, for another program",
    ),
    "--progress": dict(
        default="text",
        choices=("text", "json"),
        help="progress on stderr: lines for a person, or a JSON object each for another program; -q: none (default: "
        "text)",
    ),
    "--config": dict(
        metavar="FILE.toml", help="file with these flags as keys; flags on the command line take precedence"
    ),
}

#: What a word without a flag is called in an error.
_SPOKEN = {"command": "command", "what": "list", "action": "action"}


class _Parser(argparse.ArgumentParser):
    """argparse, with one-line errors that name the nearest flag or command."""

    def error(self, message: str) -> NoReturn:
        newest = _newest_results() if message.endswith("required: DIR") else None
        hint = f"the newest is {newest}; " if newest else ""
        raise UsageError(f"{message}; {hint}see '{self.prog} --help'")

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


def _newest_results() -> Path | None:
    """The folder of results that was written to last, of those that nobody named."""
    found = []
    for path in (Path("results") / "local").glob("*/records.jsonl"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path.parent))
    return max(found)[1] if found else None


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
    options.words = arguments  # as they were given, for the command that comes next
    if left:
        command = " ".join(filter(None, ("bench", options.command, getattr(options, "action", None))))
        words = [word.partition("=")[0] for word in left]
        flag = next((word for word in words if word.startswith("-")), None)
        flags = _flags(parser, *command.split()[1:])
        if flag in flags:
            raise UsageError(f"{flag} belongs after the command: bench {options.command} {flag}")
        hint = f"see '{command} --help'"
        raise UsageError(
            unknown("flag", flag, flags, hint=hint) if flag else unknown("argument", words[0], (), hint=hint)
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


def _flags(parser: argparse.ArgumentParser, *words: str) -> set[str]:
    """The flags of a command, or of an action of one."""
    for word in words:
        commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = commands.choices[word]
    return {flag for action in parser._actions for flag in action.option_strings}


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
    common.add_argument("-q", "--quiet", action="store_true", help="show errors only: no progress, no advice")
    common.add_argument("-v", "--verbose", action="store_true", help="show tracebacks, and messages of the parts")

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
    """Add arguments that several commands have.

    Args:
        flags: such as `--out`.
        settings: for `add_argument`, where they differ from those of the other commands.
    """
    for flag in flags:
        sub.add_argument(flag, **{**_SHARED[flag], **settings})


def add_fields(sub: argparse._ActionsContainer, request: type) -> None:
    """Add an argument for each field of a request that was declared with `core.arguments.flag`."""
    hints = typing.get_type_hints(request)
    for field in dataclasses.fields(request):
        if "flag" not in field.metadata:
            continue
        flag = field.metadata["flag"]
        settings = {**_settings_of(hints[field.name]), **_SHARED.get(flag, {}), "default": None, **field.metadata}
        del settings["flag"]
        if flag.startswith("-"):
            settings |= {"dest": field.name, "required": field.default is to.REQUIRED}
        sub.add_argument(flag, **settings)


def _settings_of(hint: Any) -> dict[str, Any]:
    """What follows for an argument from its field's type: a switch, choices, or how its text is read."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in kinds:
        return {"action": "store_true"}
    if int in kinds:
        return {"type": to.positive, "metavar": "N"}
    for kind in kinds:
        if kind in (float, Path):
            return {"type": kind}
        if typing.get_origin(kind) is Literal:
            return {"choices": typing.get_args(kind)}
    return {}


def values_of(request: type, options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that the command line has a value for."""
    flags = [field.name for field in dataclasses.fields(request) if "flag" in field.metadata]
    values = {name: getattr(options, name) for name in flags}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}
