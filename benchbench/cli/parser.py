"""Argument parser of `bench`: every command and flag, files of flags, and errors that name the nearest flag.

argparse, which imports in milliseconds. A `--config` file is read as flags placed before those of the
command line, so it can say nothing that a flag cannot, and the command line wins.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchbench.cli import calibration_flags, search_flags, training_flags
from benchbench.cli import types as to
from benchbench.cli.types import FORMATS
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


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command line.

    Raises:
        UsageError: an unknown command, flag or value, with the nearest one that is known.
    """
    if any("\0" in argument for argument in arguments):
        raise UsageError("an argument holds a NUL character, which no name or path can")
    parser = build_parser()
    arguments = _with_signs(arguments)
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


def build_parser() -> argparse.ArgumentParser:
    """Every command and flag."""
    common = _Parser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true", help="no progress, errors only")
    common.add_argument("-v", "--verbose", action="store_true", help="progress also without a terminal; tracebacks")

    parser = _Parser(
        prog="bench",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"benchbench {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common], allow_abbrev=False
        )
        return sub

    sub = command("list", "models, devices or data sets that there are")
    sub.add_argument("what", nargs="?", default="models", choices=("models", "devices", "datasets"))
    sub.add_argument("--format", default="table", choices=FORMATS)

    sub = command("run", "measure, or predict, networks on devices and write a report")
    sub.add_argument(
        "--models",
        default="all",
        metavar="WHICH",
        help="all | names and globs, by commas | card.toml | weights.safetensors | pkg.module:Class",
    )
    training_flags.add_channels(sub)
    training_flags.add_trust(sub)
    sub.add_argument(
        "--device",
        default="cpu",
        metavar="D[,D]",
        help="cpu | cuda | jetson | a host of 'bench devices' | jetson:agx-orin-64gb | a profile's name or file "
        "(default: cpu)",
    )
    sub.add_argument(
        "--spatial",
        nargs=3,
        type=to.positive,
        metavar=("D", "H", "W"),
        help="input size in voxels (default: the data set's patch, 128 128 128)",
    )
    sub.add_argument(
        "--batch-size",
        type=to.positives,
        default=(1,),
        metavar="N[,N]",
        help="patches in one forward (default: 1)",
    )
    sub.add_argument(
        "--dtype",
        type=to.dtypes,
        default=("fp32",),
        metavar="T[,T]",
        help="fp32, or autocast to bf16 / fp16 (default: fp32)",
    )
    sub.add_argument(
        "--threads",
        type=to.positives,
        default=(None,),
        metavar="N[,N]",
        help="CPU threads (default: all usable cores)",
    )
    sub.add_argument(
        "--protocol",
        type=to.protocol,
        default="quick",
        metavar="NAME[,KEY=NUMBER]",
        help="how often to repeat: quick, standard (five processes) or thorough, or one's own numbers, such as "
        "standard,processes=8,half_width=0.02 (default: quick)",
    )
    sub.add_argument(
        "--phase",
        default="infer",
        choices=("infer", "train"),
        help="train: time and memory of one training step instead of a forward (default: infer)",
    )
    sub.add_argument(
        "--volume",
        nargs=3,
        type=to.positive,
        metavar=("D", "H", "W"),
        help="also measure a whole patient of so many voxels, by sliding windows of the network's patch",
    )
    sub.add_argument(
        "--overlap",
        type=to.share,
        default=0.5,
        metavar="SHARE",
        help="of neighbouring windows (default: 0.5)",
    )
    sub.add_argument(
        "--crop-foreground",
        action="store_true",
        help="windows over the patient's box alone, on a phantom case (of --volume, or its own size)",
    )
    sub.add_argument(
        "--memory-limit",
        type=to.memory,
        metavar="SIZE",
        help="of each network's process, such as 2GB; enforced",
    )
    sub.add_argument(
        "--data",
        metavar="NAME|DIR",
        help="data set for Dice, or its folder; 'none' for no Dice (default: phantom, where the network fits it)",
    )
    sub.add_argument(
        "--fold",
        type=to.fold_or_all,
        metavar="N|all",
        help="of the folder's five, whose Dice is reported; 'all': every case, of a folder that no network has seen "
        "(default: 0)",
    )
    sub.add_argument(
        "--empty-rule",
        choices=("brats", "exclude"),
        help="a region that label and answer lack: Dice 1, or left out (default: brats for the regions of BraTS)",
    )
    sub.add_argument(
        "--checkpoints",
        type=Path,
        nargs="+",
        default=[Path("results/local")],
        metavar="DIR",
        help="where trained weights are looked for (default: results/local)",
    )
    sub.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights (.safetensors) of the one network in --models"
    )
    sub.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="results folder; the same one again measures what is missing (default: a new one under results/local)",
    )
    sub.add_argument(
        "--fresh",
        action="store_true",
        help="start over in --out: records that are there are set aside, as .old, .old.2, ...",
    )
    sub.add_argument(
        "--no-noise",
        action="store_true",
        help="do not measure one network twice for the run's noise floor, nor the machine's peak for the roofline",
    )
    sub.add_argument("--require-measured", action="store_true", help="exit 3 rather than predict")
    sub.add_argument(
        "--set-clocks", action="store_true", help="on a Jetson: run at jetson_clocks, and restore the clocks afterwards"
    )
    sub.add_argument(
        "--time-limit",
        type=to.seconds,
        default=1200.0,
        metavar="TIME",
        help="for one network, such as 20min (default: 20min)",
    )
    sub.add_argument("--format", default="table", choices=FORMATS, help="of the table at the end (default: table)")
    sub.add_argument("--config", metavar="FILE.toml", help="these flags from a file; flags on the command line win")

    _add_audit(command)
    _add_compare(command)

    sub = command("report", "write the report of results folders again, from their records alone")
    sub.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    sub.add_argument("--out", type=Path, metavar="FILE", help="(default: report.html in the first folder)")
    sub.add_argument("--force", action="store_true", help="replace an --out that is no page of benchbench")
    sub.add_argument(
        "--format",
        default="html",
        choices=("html", "csv", "markdown", "latex", "json"),
        help="html writes a file, the others go to stdout or --out",
    )
    sub.add_argument("--include-predicted", action="store_true", help="rank forecasts, too, on a page in HTML")
    sub.add_argument(
        "--paper",
        action="store_true",
        help="show the claims and tables of the Slim UNETR paper on a page of any networks (default: where slim_unetr "
        "and a network that the paper compares it with are there)",
    )

    training_flags.add_train(command)
    training_flags.add_compress(command)
    search_flags.add_search(command)
    calibration_flags.add_calibrate(command)
    training_flags.add_predict(command)
    _add_data(command, common)
    _add_devices(command, common)

    sub = command("info", "what benchbench sees of this machine")
    sub.add_argument("--format", default="table", choices=("table", "json"))
    return parser


def _add_audit(command: Any) -> None:
    sub = command("audit", "count parameters and MACs by every counter, and say which is wrong, by how much and why")
    sub.add_argument(
        "--models",
        default="all",
        metavar="WHICH",
        help="all | names and globs, by commas | card.toml | weights.safetensors | pkg.module:Class",
    )
    training_flags.add_channels(sub)
    training_flags.add_trust(sub)
    sub.add_argument(
        "--input",
        nargs=5,
        type=to.positive,
        metavar=("B", "C", "D", "H", "W"),
        help="shape of the input (default: one of the card's own channels and size)",
    )
    sub.add_argument("--by-operator", action="store_true", help="each operator that a counter gets wrong, and why")
    sub.add_argument(
        "--operators", action="store_true", help="no network: each counter's factor on operators counted by hand"
    )
    sub.add_argument(
        "--full", action="store_true", help="run the other counters on real tensors, which takes time and memory"
    )
    sub.add_argument("--out", type=Path, metavar="DIR", help="also keep a record of each network there")
    sub.add_argument("--format", default="table", choices=(*FORMATS, "latex"), help="(default: table)")
    sub.add_argument("--config", metavar="FILE.toml", help="these flags from a file; flags on the command line win")


def _add_compare(command: Any) -> None:
    sub = command(
        "compare", "what became slower, larger or worse from one set of records to another; exit 1 if any did"
    )
    sub.add_argument("before", type=Path, metavar="A", help="a results folder or a records.jsonl: what was")
    sub.add_argument("after", type=Path, metavar="B", help="likewise: what is")
    sub.add_argument(
        "--fail-on",
        type=to.limits,
        metavar="METRIC:RATIO[,...]",
        help="exit 1 only where one of these is worse by more than that, such as latency:1.10,peak_memory:1.05,"
        "dice:0.01 (default: anything that is worse)",
    )
    sub.add_argument(
        "--min-effect",
        type=to.min_effect,
        metavar="SHARE",
        help="up to which two values are the same (default: 0.02; Dice: 0.01 absolute)",
    )
    sub.add_argument(
        "--metrics",
        type=to.metrics,
        metavar="NAME[,NAME]",
        help="to compare, such as latency,dice (default: all)",
    )
    sub.add_argument("--anyway", action="store_true", help="compare also under different conditions, and list them")
    sub.add_argument("--format", default="table", choices=FORMATS)
    sub.add_argument("--out", type=Path, metavar="FILE.html", help="also write a page with the distributions")
    sub.add_argument("--force", action="store_true", help="replace an --out that is no page of benchbench")


def _actions(
    sub: argparse.ArgumentParser, common: argparse.ArgumentParser
) -> Callable[[str, str], argparse.ArgumentParser]:
    """What adds an action below a command: its name, and its help."""
    actions = sub.add_subparsers(dest="action", metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        described = text[0].upper() + text[1:] + "."
        added: argparse.ArgumentParser = actions.add_parser(
            name, help=text, description=described, parents=[common], allow_abbrev=False
        )
        return added

    return action


def _add_data(command: Any, common: argparse.ArgumentParser) -> None:
    sub = command("data", "data sets: what there is, how to get one, whether one is as it should be")
    action = _actions(sub, common)

    sub = action("list", "those that come with benchbench, those in a folder, and how to get others")
    sub.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="a folder whose data sets are listed, too")
    sub.add_argument("--format", default="table", choices=FORMATS)

    sub = action("fetch", "download a data set of the Medical Segmentation Decathlon, and check it")
    sub.add_argument("name", metavar="NAME", help="as 'bench data list' has it, such as msd:Task04")
    sub.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="folder for it (default: data)")

    sub = action("check", "read every case: geometry, labels, missing and damaged files, duplicates; exit 3 on a fault")
    sub.add_argument("folder", type=Path, metavar="DIR")
    sub.add_argument("--format", default="table", choices=("table", "json"))

    sub = action("prepare", "preprocess every case into the cache, which training does by itself")
    sub.add_argument("folder", type=Path, metavar="DIR")

    sub = action("split", "write the five folds as nnU-Net's splits_final.json")
    sub.add_argument("folder", type=Path, metavar="DIR")
    sub.add_argument(
        "--out", type=Path, default=Path("splits_final.json"), metavar="FILE", help="(default: splits_final.json)"
    )
    sub.add_argument("--force", action="store_true", help="replace an --out that says something else")

    sub = action("cache", "what prepared cases take, and where")
    sub.add_argument("--clear", action="store_true", help="remove them")
    sub.add_argument("--format", default="table", choices=FORMATS)


def _add_devices(command: Any, common: argparse.ArgumentParser) -> None:
    sub = command("devices", "where networks can be measured: list, add and remove hosts, and examine them")
    action = _actions(sub, common)

    sub = action("list", "this machine, the hosts that were added, and the profiles (also without an ACTION)")
    sub.add_argument("--format", default="table", choices=FORMATS)

    sub = action("add", "name a machine that is reached by ssh, for --device")
    sub.add_argument("name", metavar="NAME", help="what to call it, such as jetson")
    sub.add_argument("url", metavar="URL", help="ssh://user@address, with :port where it is not ssh's own")
    sub.add_argument(
        "--python",
        metavar="PATH",
        help="the Python over there that has benchbench (default: the one it was added with, else python3)",
    )
    sub.add_argument(
        "--folder",
        metavar="DIR",
        help="folder over there to start in, such as a clone of benchbench (default: as it was added, if it was)",
    )

    sub = action("remove", "forget a host")
    sub.add_argument("name", metavar="NAME", help="as it was added")

    sub = action("doctor", "what a device has, what it lacks, and whether it can measure; exit 3 if it cannot")
    sub.add_argument(
        "name", nargs="?", metavar="NAME", help="cpu | cuda | jetson | a host that was added (default: this machine)"
    )
    sub.add_argument("--format", default="table", choices=FORMATS)
