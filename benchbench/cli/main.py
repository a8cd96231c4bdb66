"""Entry point of `bench`: commands, signals, exit codes; the only module that prints and exits.

Nothing heavy is imported before a command needs it, so that `bench --help` answers at once. Results
go to stdout; progress and logs go to stderr, and only when that is a terminal or with -v.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.cli.parser import parse
from benchbench.core import streams
from benchbench.core.errors import (
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SOFTWARE,
    EXIT_USAGE,
    PLACE,
    BenchError,
    UsageError,
    command,
    named_line,
)

if TYPE_CHECKING:
    from benchbench.runner.run import RunResult


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    with streams.usable():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    verbose = any(a in ("-v", "--verbose") for a in arguments)
    previous = _terminate_like_ctrl_c()
    try:
        options = parse(arguments)
        _set_up_logging(options)
        try:
            code = int(COMMANDS[options.command](options))
        except SystemExit as error:  # of code that a command ran; its code means nothing here
            raise RuntimeError(f"something in 'bench {options.command}' called exit({error.code!r})") from error
        sys.stdout.flush()
        return code
    except BenchError as error:
        if verbose:
            _traceback()
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except streams.ReaderGone:
        return EXIT_OK
    except Exception as error:  # whatever is left is one line, too, and no code that means something else
        if verbose:
            _traceback()
        if isinstance(error, OSError) and error.filename is not None and error.errno in _UNUSABLE:
            print(f"bench: cannot use {error.filename}: {error.strerror}; choose another place", file=sys.stderr)
            return EXIT_USAGE
        more = "" if verbose else "; -v shows where"
        print(f"bench: a defect of benchbench: {named_line(error)}{more}", file=sys.stderr)
        return EXIT_SOFTWARE
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


#: Of a file or folder that cannot be used, whatever the command wanted of it.
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.ENOTDIR, errno.ENOSPC)


def _terminate_like_ctrl_c() -> dict[int, Any]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does, the first one of them; returns the former handlers."""
    numbers = [n for n in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if n is not None]

    def interrupt(*_: object) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # once is enough: what follows tidies up
        raise KeyboardInterrupt

    previous: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread, where nobody may set handlers
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                previous[number] = signal.signal(number, interrupt)
    return previous


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _set_up_logging(options: argparse.Namespace) -> None:
    import logging

    level = logging.DEBUG if options.verbose else logging.ERROR if options.quiet else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="bench: %(message)s", stream=sys.stderr)
    logging.getLogger("benchbench").setLevel(level)


def _list(options: argparse.Namespace) -> int:
    from benchbench.cli.commands import tables as commands_tables

    rows = {"models": commands_tables.models, "devices": commands_tables.devices, "datasets": commands_tables.datasets}[
        options.what
    ]()
    print(commands_tables.render(rows, options.format))
    return EXIT_OK


def _info(options: argparse.Namespace) -> int:
    from benchbench.cli.commands import tables as commands_tables

    print(commands_tables.render_facts(commands_tables.info(), options.format))
    return EXIT_OK


def _report(options: argparse.Namespace) -> int:
    from benchbench import report
    from benchbench.core.errors import StoreError
    from benchbench.core.results import latest, read_records, write_whole

    if options.format == "html":
        print(
            report.write_report(
                options.folders, options.out, include_predicted=options.include_predicted, force=options.force
            )
        )
        return EXIT_OK
    if options.out is not None:
        report.check_place(options.out, options.folders, page=False, force=options.force)
    records = latest(record for folder in options.folders for record in read_records(folder))
    text = report.export(records, options.format, report.folder_reader(options.folders))
    if options.out is None:
        print(text, end="" if text.endswith("\n") else "\n")
        return EXIT_OK
    try:
        write_whole(options.out, text.encode())
    except OSError as error:
        raise StoreError(f"cannot write {options.out}: {error.strerror or error}; choose another --out") from error
    print(options.out)
    return EXIT_OK


def _run(options: argparse.Namespace) -> int:
    from benchbench.cli.progress import TerminalProgress
    from benchbench.runner import plan as runner_plan
    from benchbench.runner import run as runner_run

    request = runner_plan.RunRequest(
        models=options.models,
        in_channels=options.in_channels,
        out_channels=options.out_channels,
        trust=options.trust,
        devices=tuple(d for d in options.device.split(",") if d),
        spatial=tuple(options.spatial) if options.spatial else None,
        batch=options.batch_size,
        dtype=options.dtype,
        threads=options.threads,
        protocol=options.protocol,
        phase=options.phase,
        volume=tuple(options.volume) if options.volume else None,
        overlap=options.overlap,
        crop_foreground=options.crop_foreground,
        memory_limit_bytes=options.memory_limit,
        data=options.data,
        checkpoint=options.checkpoint,
        fold=options.fold,
        empty_rule=options.empty_rule,
        checkpoints=tuple(options.checkpoints),
        require_measured=options.require_measured,
        time_limit_s=options.time_limit,
        set_clocks=options.set_clocks,
        noise=not options.no_noise,
    )
    out = options.out or _new_folder("run")
    shown = _shown(options)
    try:
        with TerminalProgress(sys.stderr, shown=shown) as progress:
            outcome = runner_run.run(request, out, fresh=options.fresh, progress=progress)
    except (KeyboardInterrupt, BenchError) as error:
        _report_what_there_is(out)
        if isinstance(error, KeyboardInterrupt):
            print(f"bench: interrupted; {_what_is_kept(out)}", file=sys.stderr)
            return EXIT_INTERRUPTED
        raise
    page, fault = _page_of(out)
    _print_outcome(outcome, options, page)
    if fault:
        raise fault
    return EXIT_INCOMPLETE if runner_run.failed(outcome.records) else EXIT_OK


def _page_of(out: Path) -> tuple[Path | None, BenchError | None]:
    """The page of a folder that was just filled, or what is to be raised once all else is told."""
    from benchbench import report

    try:
        return report.write_report([out]), None
    except BenchError as error:  # the records are whole; only their page is missing
        more = f"the records are kept: 'bench report {shlex.quote(str(out))} --out page.html' writes the page"
        return None, type(error)(f"{error}; {more}")


def _report_what_there_is(out: Path) -> None:
    """After a break, a page of what is finished; the break itself is what gets reported."""
    from benchbench import report

    with contextlib.suppress(BenchError):
        if (out / "records.jsonl").exists() and (out / "records.jsonl").stat().st_size:
            report.write_report([out])


def _what_is_kept(out: Path) -> str:
    """What an interrupted run leaves, and how it goes on."""
    again = f"the same command with --out {shlex.quote(str(out))}"

    def is_there(name: str) -> bool:
        with contextlib.suppress(OSError):
            return (out / name).stat().st_size > 0
        return False

    if is_there("records.jsonl"):
        return f"finished records are kept in {out}: {again} measures the rest"
    if is_there("records.unfinished"):
        return f"no record is finished yet, and the processes that ended are kept in {out}: {again} goes on"
    return "nothing was finished yet: the same command begins anew"


def _print_outcome(outcome: RunResult, options: argparse.Namespace, page: Path | None) -> None:
    from benchbench import report
    from benchbench.cli.commands import tables as commands_tables
    from benchbench.core.units import format_duration

    fmt = options.format
    if fmt != "table":
        for banner in outcome.banners:  # beside the text, which has to stay readable for a program
            print(f"bench: {banner}", file=sys.stderr)
        text = report.export(list(outcome.records), fmt)
        if fmt == "markdown":
            text = "".join(f"> {banner}\n\n" for banner in outcome.banners) + text
        print(text, end="" if text.endswith("\n") else "\n")
        return
    for banner in outcome.banners:
        print(f"{banner}\n")
    print(commands_tables.results(list(outcome.records)))
    for record in outcome.records:
        if record.status != "ok":
            print(f"{record.model.name}: {record.status}: {record.error}")
    for line in report.missing_dice(outcome.records):
        print(
            re.sub(rf"{PLACE}\S+", lambda _: shlex.quote(str(options.data)), line)
        )  # records do not tell where it lies
    spent = outcome.spent
    if spent.forward_s:
        print(
            f"\n{format_duration(spent.total_s)} in all: {spent.share:.0%} in forwards, Dice and the networks' start-up"
            f" ({format_duration(spent.forward_s)} forwards, {format_duration(spent.accuracy_s)} Dice, "
            f"{format_duration(spent.start_s)} start-up)"
        )
    for visit in outcome.visits:
        print(commands_tables.visit_line(visit))
    if outcome.reused:
        print(
            f"{outcome.reused} of {len(outcome.records)} rows were measured before under the same conditions and reused"
            " (--fresh measures again)"
        )
    print(f"records: {outcome.folder / 'records.jsonl'}")
    if page:
        print(f"report:  {page}")


def _audit(options: argparse.Namespace) -> int:
    from benchbench.cli.commands import audit_tables
    from benchbench.cli.commands import tables as commands_tables
    from benchbench.runner import audit as runner_audit

    if options.operators:
        print(commands_tables.render(audit_tables.operators(), options.format))
        return EXIT_OK
    shown = _shown(options)
    rows = runner_audit.run(
        options.models,
        shape=options.input,
        in_channels=options.in_channels,
        out_channels=options.out_channels,
        full=options.full,
        trust=options.trust,
        out=options.out,
        tell=lambda text: print(text, file=sys.stderr, flush=True) if shown else None,
    )
    if options.format == "json":
        print(json.dumps([runner_audit.to_json(row) for row in rows], indent=2))
    elif options.by_operator:
        print(commands_tables.render(audit_tables.by_operator(rows), options.format))
    elif options.format == "csv":
        print(commands_tables.render(audit_tables.plain(rows), "csv"))
    else:
        print(commands_tables.render(audit_tables.macs(rows), options.format), end="\n\n")
        print(commands_tables.render(audit_tables.params(rows), options.format))
    if options.format == "table":
        print("\n" + "\n".join([*audit_tables.verdicts(rows), "", *audit_tables.how(rows)]))
        if options.out:
            print(f"records: {options.out / 'records.jsonl'}")
    if options.out:
        page, fault = _page_of(options.out)
        if fault:
            raise fault
        if options.format == "table":
            print(f"report: {page}")
    return EXIT_OK if all(row.counted for row in rows) else EXIT_INCOMPLETE


def _compare(options: argparse.Namespace) -> int:
    from benchbench import report
    from benchbench.cli.commands import compare_tables
    from benchbench.core.results import read_records
    from benchbench.report.compare import compare

    for name in options.fail_on or ():
        if options.metrics and name not in [m.short for m in options.metrics]:
            raise UsageError(f"--fail-on {name} is not among --metrics")
    if options.out:
        report.check_place(options.out, [options.before, options.after], page=True, force=options.force)
    sides = (list(read_records(options.before)), list(read_records(options.after)))
    wanted = {"metrics": options.metrics, "min_effect": options.min_effect}
    found = compare.compare(
        *sides,
        limits=options.fail_on,
        anyway=options.anyway,
        **{key: value for key, value in wanted.items() if value is not None},
    )
    names = (str(options.before), str(options.after))
    if options.out:
        report.write_comparison(found, names, options.out, force=options.force)
    print(compare_tables.text(found, names, options.format, page=options.out))
    return found.exit_code


def _train(options: argparse.Namespace) -> int:
    from benchbench.cli.progress import TrainingProgress
    from benchbench.training import run as training_run

    own = ("lr", "patch_schedule", "threads", "weight_decay", "warmup", "ema", "clip", "loss", "optimizer", "schedule")
    asked = training_run.TrainRequest(
        model=options.model,
        data=options.data,
        budget=options.budget,
        in_channels=options.in_channels,
        out_channels=options.out_channels,
        fold=options.fold,
        patch=tuple(options.spatial) if options.spatial else None,
        batch=options.batch_size,
        seed=options.seed,
        device=options.device,
        more={
            **{name: getattr(options, name) for name in own},
            "validations": options.validations,
            "checkpoint_every_s": options.keep_every,
            "augment": options.augment == "full",
            "bf16": {"auto": None, "fp32": False, "bf16": True}[options.dtype],
        },
    )
    training = training_run.prepare(asked)
    if training_run.is_one_of_several() and not options.out:
        raise UsageError("several processes train into one folder: name it with --out")
    out = options.out or _new_folder("train")
    try:
        with TrainingProgress(sys.stderr, shown=_shown(options)) as progress:
            result = training.run(out, progress=progress.step, fresh=options.fresh)
    except KeyboardInterrupt:
        print(
            f"bench: interrupted; the same command with --out {shlex.quote(str(out))} goes on from the last checkpoint",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    if training_run.is_main_process():
        print("\n".join(training.lines(result, out)))
    return EXIT_OK


def _compress(options: argparse.Namespace) -> int:
    from benchbench.cli.commands import tables as commands_tables
    from benchbench.cli.progress import TrainingProgress
    from benchbench.compress import run as compress_run
    from benchbench.compress.prune import PruneRecipe
    from benchbench.devices import cuda

    if options.device == "cuda":
        cuda.require()
    asked = compress_run.Compression(
        model=options.model,
        weights=options.checkpoint,
        recipe=PruneRecipe(
            ratio=options.prune,
            criterion=options.criterion,
            scope=options.scope,
            multiple_of=options.multiple_of,
            seed=options.seed,
        ),
        finetune=options.finetune,
        distil=options.distil,
        lr=options.lr,
        batch=options.batch_size,
        data=options.data,
        name=options.name,
        device=options.device,
        threads=options.threads,
        dtype=options.dtype,
        trust=options.trust,
    )
    out = options.out or _new_folder("compress")
    shown = _shown(options)
    try:
        with TrainingProgress(sys.stderr, shown=shown) as progress:
            made = compress_run.compress(asked, out, progress=progress.step, fresh=options.fresh)
    except KeyboardInterrupt:
        print(f"bench: interrupted; the same command with --out {shlex.quote(str(out))} goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(commands_tables.render(compress_run.rows(made, plain=options.format in ("json", "csv")), options.format))
    if options.format == "table":
        print("\n".join(compress_run.lines(made, options.data)))
    return EXIT_OK


def _search(options: argparse.Namespace) -> int:
    from benchbench import report
    from benchbench.cli import search_flags
    from benchbench.cli.commands import search_words
    from benchbench.cli.commands import tables as commands_tables
    from benchbench.cli.progress import TrainingProgress
    from benchbench.search import run as search_run
    from benchbench.search.budget import parse_budget
    from benchbench.search.feasibility import BudgetError
    from benchbench.search.request import JOB, SearchRequest, resumed

    changed = {"time_s": options.time, "workers": options.workers, "threads": options.threads}
    if options.resume:
        search_flags.check_resume(options)
        out = options.resume
        asked = resumed(out, options.storage, controls=options.controls or None, **changed)
    else:
        out = options.out or _new_folder("search")
        patch = tuple(options.spatial) if options.spatial else None
        parent = (
            Path(options.parent) if options.parent else search_run.bundled_parent(options.data, options.fold, patch)
        )
        asked = SearchRequest(
            budget=parse_budget(options.budget),
            data=options.data,
            device=options.device,
            objective=options.objective,
            phase=options.budget_phase,
            controls=options.controls,
            parent=None if options.parent == "train" else parent,
            trials=options.trials,
            spatial=patch,
            volume=tuple(options.volume) if options.volume else None,
            fold=options.fold,
            steps=options.steps,
            batch=options.batch_size,
            storage=options.storage,
            study=options.study,
            seed=options.seed,
            protocol=options.protocol,
            **{key: value for key, value in changed.items() if value is not None},
            **{key: getattr(options, key) for key in ("finalists", "seeds") if getattr(options, key) is not None},
        )
    shown = _shown(options)
    plain = options.format != "table"

    def plan(lines: Sequence[str]) -> None:
        print("\n".join([*lines, ""]), file=sys.stderr if plain else sys.stdout, flush=True)

    try:
        with TrainingProgress(sys.stderr, shown=shown) as progress:
            found = search_run.search(asked, out, plan=plan, progress=progress.step)
    except BudgetError:
        if (out / report.SEARCH).exists():
            _page_of(out)
        raise
    except KeyboardInterrupt:
        begun = (out / JOB).exists()
        hint = f"bench search --resume {shlex.quote(str(out))} goes on" if begun else "nothing was begun yet"
        print(f"bench: interrupted; {hint}", file=sys.stderr)
        return EXIT_INTERRUPTED
    page, fault = _page_of(out)
    print(commands_tables.render(search_words.rows(found, plain=plain), options.format))
    if not plain:
        print("\n".join([*search_words.lines(found), *([f"report: {page}"] if page else [])]))
    if fault:
        raise fault
    return EXIT_OK


def _calibrate(options: argparse.Namespace) -> int:
    from benchbench.devices import cpu, cuda
    from benchbench.devices.profile import CALIBRATIONS
    from benchbench.zoo import cards as zoo_cards

    if options.device == "cuda":
        cuda.require()
        if options.dtype != "fp32":  # the trace casts as the processor does
            raise UsageError(f"--dtype {options.dtype} cannot be calibrated on a GPU yet: take --dtype fp32")
    count = options.threads or (cpu.usable_cores() if options.device == "cpu" else None)
    cpu.set_affinity(cpu.cores_for(count))
    name = f"{options.device}{f'-{count}-threads' if count else ''}-{options.dtype}"
    out = options.out or CALIBRATIONS / f"{name}.toml"
    if out.suffix != ".toml":
        raise UsageError(f"--out {out} must end in .toml, since 'bench run --device {out}' tells a profile by that")
    with contextlib.suppress(FileNotFoundError):
        out.stat()  # a name that cannot be is refused before anything is timed
    if any(part.strip().endswith(".safetensors") for part in options.models.split(",")):
        raise UsageError(
            f"--models {options.models}: operators are timed without weights; name the network, not a file"
        )
    cards = zoo_cards.find_cards(options.models)
    from benchbench.cli.commands import calibrate_words
    from benchbench.cli.progress import TrainingProgress
    from benchbench.runner import calibrate

    setting = calibrate.Setting(device=options.device, threads=count, dtype=options.dtype)
    try:
        with TrainingProgress(sys.stderr, shown=_shown(options)) as progress:
            networks = calibrate.networks_of(cards, options.dtype, progress=progress.step)
            profile = calibrate.calibrate(networks, setting, out, time_s=options.time, progress=progress.step)
    except KeyboardInterrupt:
        print("bench: interrupted; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(
        "\n".join(
            [
                *calibrate_words.lines(profile),
                f"profile: {out}",
                f"use it: {command('run', '--models', 'all', '--device', out)}",
            ]
        )
    )
    return EXIT_OK


def _predict(options: argparse.Namespace) -> int:
    from benchbench.training import predict

    written = predict.predict_files(
        options.model,
        options.checkpoint,
        options.input,
        options.output,
        overlap=options.overlap,
        device=options.device,
        force=options.force,
        trust=options.trust,
    )
    for path in written:
        print(path)
    return EXIT_OK


def _data(options: argparse.Namespace) -> int:
    from benchbench.cli.commands import data_tables
    from benchbench.cli.commands import tables as commands_tables
    from benchbench.cli.progress import TrainingProgress
    from benchbench.core import cache
    from benchbench.core.units import format_value
    from benchbench.data import download as data_download
    from benchbench.data import folder, preprocessing
    from benchbench.data.plan import ALL

    shown = _shown(options)
    if options.action in (None, "list"):
        rows = data_tables.rows(getattr(options, "folder", None))
        print(commands_tables.render(rows, getattr(options, "format", "table")))
    elif options.action == "fetch":
        print(f"data set: {data_download.fetch(options.name, options.to)}")
    elif options.action == "split":
        print(data_tables.write_splits(options.folder, options.out, force=options.force))
    elif options.action == "prepare":
        plan = folder.plan_folder(options.folder, fold=ALL)
        with TrainingProgress(sys.stderr, shown=shown) as progress:
            bad = preprocessing.prepare_all(plan, progress=progress.case)
        for text in bad.values():
            print(f"left out: {text}")
        size = cache.size_bytes(folder.prepared_folder(plan))
        print(f"{sum(plan.splits.values()) - len(bad)} cases prepared: {format_value(size, 'B')}")
        print(f"cache: {folder.prepared_folder(plan)}")
        return EXIT_INCOMPLETE if bad else EXIT_OK
    elif options.action == "cache":
        if options.clear:
            print(f"{format_value(data_tables.clear_cache(), 'B')} removed")
        else:
            print(commands_tables.render(data_tables.cache_rows(), options.format))
    else:
        with TrainingProgress(sys.stderr, shown=shown) as progress:
            found = data_tables.check_folder(options.folder, progress=progress.case)
        if options.format == "json":
            print(json.dumps(data_tables.to_json(found), indent=2))
        else:
            print(commands_tables.render_facts(dict(data_tables.facts_of(found)), "table"))
            print("\n".join(data_tables.fault_lines(found) or ["no fault"]))
        return EXIT_OK if found.ok else EXIT_INCOMPLETE
    return EXIT_OK


def _shown(options: argparse.Namespace) -> bool:
    """Whether progress is told: on a terminal, unless it is not wanted, and with -v anywhere."""
    return bool(options.verbose or (sys.stderr.isatty() and not options.quiet))


def _new_folder(kind: str) -> Path:
    import datetime

    return Path("results") / "local" / f"{kind}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _devices(options: argparse.Namespace) -> int:
    from benchbench.cli.commands import tables as commands_tables
    from benchbench.devices import hosts

    if options.action == "add":
        before = hosts.load_hosts().get(options.name)
        python = options.python if options.python is not None else before.python if before else "python3"
        folder = options.folder if options.folder is not None else before.folder if before else None
        host = hosts.parse_url(options.url, name=options.name, python=python, folder=folder)
        commands_tables.check_host_name(host.name)
        hosts.add_host(host)
        print(f"{host.name}: {host.url}" + (f", which was {before.url}" if before and before != host else ""))
        print(f"starts {host.python} there" + (f" in {host.folder}" if host.folder else ""))
        print(f"kept in {hosts.config_path()}; whether it can measure: bench devices doctor {host.name}")
    elif options.action == "remove":
        hosts.remove_host(options.name)
        print(f"{options.name} is forgotten")
    elif options.action == "doctor":
        return _doctor(options.name, options.format)
    else:
        print(commands_tables.render(commands_tables.devices(), getattr(options, "format", "table")))
    return EXIT_OK


def _doctor(name: str | None, fmt: str) -> int:
    from benchbench.cli.commands import tables as commands_tables
    from benchbench.runner import doctor
    from benchbench.runner.remote import doctor as remote_doctor

    found = []
    for finding in remote_doctor.find_patient(name, results=Path("results")):
        found.append(finding)
        if fmt == "table":
            print(commands_tables.finding_lines(finding), flush=True)
    if fmt != "table":
        print(commands_tables.render(commands_tables.findings(found), fmt))
    else:
        print(f"ready to measure: {'yes' if doctor.ready(found) else 'no'}")
    return EXIT_OK if doctor.ready(found) else EXIT_INCOMPLETE


COMMANDS = {
    "list": _list,
    "run": _run,
    "audit": _audit,
    "compare": _compare,
    "report": _report,
    "train": _train,
    "compress": _compress,
    "search": _search,
    "calibrate": _calibrate,
    "predict": _predict,
    "data": _data,
    "devices": _devices,
    "info": _info,
}

if __name__ == "__main__":
    sys.exit(main())
