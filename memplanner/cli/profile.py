"""memplanner profile: runs what the plan says and records where the memory went."""

import argparse
import contextlib
import gc
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from memplanner.catalogue import find_model, stems
from memplanner.cli.argument_types import integer
from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_flags, typed_flags
from memplanner.errors import Problem, UserError, printable
from memplanner.files.sandbox import scratch_folder
from memplanner.files.write import check_writable, file_name
from memplanner.plan.load import LoadedPlan, load_plan
from memplanner.plan.sources import own_names
from memplanner.report.terminal import Page
from memplanner.report.writers import PROFILE, SUITE

if TYPE_CHECKING:
    from memplanner.measurement import Backend, Measurement
    from memplanner.suite.definition import Case
    from memplanner.suite.runner import Progress

DEVICES = ("cuda", "cpu", "fake")


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument(
        "plans", nargs="*", metavar="PLAN", help="plan files, plans by name, or models; default: as for check"
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--device",
        choices=DEVICES,
        default="",
        help="cuda: this machine's GPU; cpu: real steps on the processor; fake: exact, without data or GPU "
        "(default: cuda where there is one, else fake)",
    )
    run.add_argument(
        "--warmup",
        default=1,
        type=integer("--warmup", "a number from 1 to 1000", least=1, most=1000),
        metavar="N",
        help="steps before those that are recorded (default: 1)",
    )
    run.add_argument(
        "--steps",
        default=2,
        type=integer("--steps", "a number from 0 to 1000", least=0, most=1000),
        metavar="N",
        help="steps to time (default: 2)",
    )
    run.add_argument(
        "--cap-memory",
        action="store_true",
        help="cuda: limit the process to the memory that the plan's card would give",
    )
    run.add_argument(
        "--rank-evidence", action="store_true", help="also record how much of each weight's gradient low ranks hold"
    )
    run.add_argument(
        "--entry",
        default="",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="profile your own model instead of a plan: a function that returns (model, optimizer or None, batch)",
    )
    run.add_argument("--suite", default="", metavar="FILE", help="a grid of plans: a file, or a bundled suite's name")
    run.add_argument("--out", default="", metavar="DIR", help="directory for the records, one JSON file each")
    run.add_argument("--time-limit", default="", metavar="TIME", help="with --suite: stop after 90s, 9m or 1.5h")
    run.add_argument("--again", action="store_true", help="with --suite: also run plans that already have a record")
    run.add_argument(
        "--keep-stale",
        action="store_true",
        help="with --suite: keep records that other versions of the libraries or another GPU were recorded with",
    )
    run.add_argument("--format", choices=PROFILE.formats, default="text", help="how the answer is written")
    add_plan_flags(parser, described=described)


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.measurement import UnsavedError

    gc.enable()  # models are full of cycles
    try:
        return _run(args, page, root)
    except UnsavedError as error:  # whoever reads stdout can still keep it
        return Answer(text=error.record.dump(), code=ExitCode.USAGE_ERROR, problems=error.problems)


def _run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    if args.suite:
        return _run_suite(args, page, root)
    for name in ("time_limit", "again", "keep_stale"):
        if getattr(args, name):
            raise _usage_error("memplanner profile", f"--{name.replace('_', '-')} requires --suite")
    if args.entry:
        return _run_entry(args, page, root)
    loaded_plans = _plans(args, root)
    device = _device(args.device)
    if len(loaded_plans) > 1:
        from memplanner.suite.definition import Case

        cases = [
            Case(
                id=name,
                plan=loaded_plan.plan,
                root=loaded_plan.root,
                cap_memory=args.cap_memory,
                rank_evidence=args.rank_evidence,
                warmup=args.warmup,
                steps=args.steps,
            )
            for name, loaded_plan in zip(_names(loaded_plans), loaded_plans, strict=True)
        ]
        with scratch_folder() as scratch:
            return _run_all(cases, args, page, Path(args.out or scratch), device)
    loaded_plan = loaded_plans[0]
    record = _measure(loaded_plan.plan, args, device, name=_names(loaded_plans)[0], root=loaded_plan.root)
    return _answer(record, args, page, root=loaded_plan.root, label=loaded_plan.label)


def _measure(plan: Any, args: argparse.Namespace, device: "Backend", *, name: str, root: Path, entry: str = "") -> Any:
    from memplanner.harness.record import measure
    from memplanner.measurement import save_measurement
    from memplanner.prediction import predict

    path = None
    if args.out:
        check_writable(Path(args.out) / ".json")
        name = _free_name(Path(args.out), name, plan, device, entry)
        path = Path(args.out) / f"{name}.json"
        check_writable(path)
    record = measure(
        plan,
        device,
        name=name,
        root=root,
        entry=entry,
        capped=args.cap_memory,
        evidence=args.rank_evidence,
        warmup=args.warmup,
        timed=args.steps,
        needed_bytes=0 if plan is None else predict(plan, root=root).allocated_bytes,
    )
    if path is not None:
        save_measurement(record, path)
    return record


def _free_name(folder: Path, name: str, plan: Any, device: "Backend", entry: str) -> str:
    """The name, with a number behind it where its file holds the record of something else."""
    from memplanner.measurement import load_measurement

    for number in itertools.count(1):
        candidate = name if number == 1 else f"{name}-{number}"
        path = folder / f"{candidate}.json"
        if not os.path.exists(path):
            return candidate
        try:
            record = load_measurement(path)
        except UserError:
            continue
        if (record.plan, record.backend, record.entry) == (plan, device, entry):
            return candidate
    raise AssertionError("unreachable: some name is free")


def _answer(record: "Measurement", args: argparse.Namespace, page: Page, *, root: Path, label: str) -> Answer:
    code = ExitCode.OK if record.outcome.status == "completed" else ExitCode.DOES_NOT_FIT
    from memplanner.prediction import predict
    from memplanner.report.profile_text import RunAnswer

    estimate = None
    if record.plan is not None and args.format != "json":
        estimate = predict(record.plan, root=root)
    answer = RunAnswer(record=record, estimate=estimate, label=label)
    return Answer(text=PROFILE.write(args.format, answer, page), code=code)


def _run_entry(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    if args.plans:
        raise _usage_error("--entry", "cannot be combined with PLAN: an entry point brings its own model")
    device = _device(args.device, otherwise="cpu")
    if device == "fake":
        raise _usage_error("--device", "an entry point makes real tensors: cuda or cpu, not fake")
    name = file_name(args.entry.replace(":", "."))
    record = _measure(None, args, device, name=name, root=root, entry=args.entry)
    return _answer(record, args, page, root=root, label=f"entry point {args.entry}")


def _run_suite(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.suite.definition import load_suite

    if args.plans or args.entry:
        raise _usage_error("--suite", "cannot be combined with PLAN or --entry: a suite names its own plans")
    if typed_flags(args):
        raise _usage_error(
            next(iter(typed_flags(args))), "cannot be combined with --suite: a suite's plans are in its file"
        )
    if not args.out:
        raise _usage_error("memplanner profile", "--suite requires --out, the directory for its records")
    out = root / args.out
    if os.path.exists(out) and not os.path.isdir(out):
        raise _usage_error("--out", f"{args.out!r} is not a directory")
    return _run_all(load_suite(args.suite, root), args, page, out, _device(args.device))


def _run_all(cases: "list[Case]", args: argparse.Namespace, page: Page, out: Path, device: "Backend") -> Answer:
    from memplanner.processes.stopping import stop_requests
    from memplanner.report.profile_text import SuiteAnswer
    from memplanner.suite.runner import run_cases

    seconds = _seconds(args.time_limit) if args.time_limit else None
    done: list[Progress] = []

    def say_how_far() -> None:
        recorded = sum(os.path.isfile(out / f"{case.id}.json") for case in cases)
        further = " The same command goes on from here." if args.out else ""
        _stderr().write(f"\nStopped. {recorded} of {len(cases)} plans have their record.{further}\n")

    with stop_requests(say_how_far) as request:
        events = run_cases(
            cases, device, out, seconds=seconds, again=args.again, keep_stale=args.keep_stale, stopped=request.__bool__
        )
        done.extend(event for event in _shown(events, len(cases)) if event.what != "begins")
    if request:
        say_how_far()
        raise KeyboardInterrupt if request.signal == signal.SIGINT else SystemExit(request.exit_code)
    records = [event.record for event in done if event.record is not None]
    failed = any(record.outcome.status not in ("completed", "out-of-memory") for record in records)
    left = sum(event.what == "left" for event in done)
    code = ExitCode.DOES_NOT_FIT if failed or left else ExitCode.OK
    stale = [f"{event.case.id}: {event.stale} ({_STALE[event.what]})" for event in done if event.stale is not None]
    answer = SuiteAnswer(records=records, left=left, out=str(out) if args.out else "", stale=stale)
    return Answer(text=SUITE.write(args.format, answer, page), code=code)


_STALE = {"done": "run again", "kept": "kept", "left": "left for another run"}
"""What became of a case whose record is not up to date."""


class _Unbreakable:
    """stderr for words that a run does not depend on: where it is closed or its reader has gone, nothing is written."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write all of it or give up for good."""
        try:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
        except UnicodeEncodeError:
            return self.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def _give_up(self) -> None:
        """What the stream still holds is written nowhere, or Python would fail with it at the end."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # type: ignore[union-attr]
        self._stream = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def flush(self) -> None:
        """Nothing waits to be written."""

    def isatty(self) -> bool:
        """Whether somebody watches."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False


def _stderr() -> "TextIO":
    return cast("TextIO", _Unbreakable(sys.stderr))


def _shown(events: "Iterator[Progress]", total: int) -> "Iterator[Progress]":
    """A progress bar on a terminal, a line per plan elsewhere, on stderr. Of a record that is not up to date a line
    says why.
    """
    stderr = _stderr()
    if not stderr.isatty():
        for event in events:
            if event.what == "begins" and event.stale is not None:
                stderr.write(f"{'stale':>12}  {printable(f'{event.case.id}: {event.stale}')}\n")
            if event.what != "begins":
                stderr.write(f"{_word(event):>12}  {printable(event.case.id)}\n")
            yield event
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(file=stderr), transient=True) as bar:
        task = bar.add_task("", total=total)
        for event in events:
            if event.what == "begins":
                if event.stale is not None:
                    bar.console.print(Text(f"stale: {printable(f'{event.case.id}: {event.stale}')}"))
                bar.update(task, description=printable(event.case.id))
            else:
                if event.what == "done" and event.record is not None and event.record.outcome.status != "completed":
                    bar.console.print(Text(f"{_word(event)}: {printable(event.case.id)}"))
                bar.advance(task)
            yield event


def _word(event: "Progress") -> str:
    if event.what == "done" and event.record is not None:
        return {"completed": f"{event.seconds:.1f} s", "out-of-memory": "out of memory"}.get(
            event.record.outcome.status, event.record.outcome.status.replace("-", " ")
        )
    if event.what == "kept":
        return "has a record" if event.stale is None else "kept, stale"
    return event.what


def _plans(args: argparse.Namespace, root: Path) -> list[LoadedPlan]:
    """The plans, whose models are there: none is run before all of them are known to be plans."""
    flags = typed_flags(args)
    plans = [_plan(word, root, flags) for word in args.plans] or [load_plan(root=root, flags=flags)]
    for each in plans:
        find_model(each.plan.model, each.root)
    return plans


def _plan(word: str, root: Path, flags: dict[str, Any]) -> LoadedPlan:
    """A word is a plan's file or name, or else a model."""
    path = root / word
    is_plan = path.suffix == ".toml" or word in stems("plans", ".toml") or word in own_names(root)
    if not is_plan and path.suffix == ".json" and os.path.isfile(path):
        from memplanner.files.parse import parse_json, read_text

        is_plan = "model_type" not in parse_json(read_text(path), path)
    if is_plan:
        return load_plan(root=root, plan_file=word, flags=flags)
    return load_plan(root=root, model=word, flags=flags)


def _names(loaded_plans: Sequence[LoadedPlan]) -> list[str]:
    """The records' names, each a file's, which differ even where case does not count: the plan file's, or the model's,
    with a number where there are several plans.
    """
    names: list[str] = []
    taken: set[str] = set()
    for index, loaded_plan in enumerate(loaded_plans):
        stem = loaded_plan.name
        if not stem:
            stem = Path(loaded_plan.label.removeprefix("bundled plan ").split(" ")[0]).stem
            if stem in ("defaults", "memplanner", "pyproject"):
                stem = Path(loaded_plan.plan.model).name.removesuffix(".json")
            stem += f"-{index + 1}" if index else ""
        candidates = (file_name(stem if number == 1 else f"{stem}-{number}") for number in itertools.count(1))
        names.append(next(name for name in candidates if name.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def _device(typed: str, *, otherwise: str = "fake") -> "Backend":
    """The device asked for, if this machine has it; without a wish, its GPU, or `otherwise`."""
    try:
        from memplanner.harness.record import available
    except ModuleNotFoundError as error:
        raise _usage_error(
            "profile", f"needs {error.name}, which is not installed", "pip install 'memplanner[live]'"
        ) from None
    device = typed or ("cuda" if not available("cuda") else otherwise)
    why = available(device)  # type: ignore[arg-type]
    if why:
        raise _usage_error("--device", f"{device!r} is not available: {why}", "cpu and fake run anywhere")
    return device  # type: ignore[return-value]


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(s|m|h)", text, re.ASCII)
    if match is None:
        raise _usage_error("--time-limit", f"{text!r} is not a time such as '90s', '9m' or '1.5h'")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _usage_error(where: str, message: str, hint: str = "") -> UserError:
    return UserError(Problem(where=where, key="", message=message, hint=hint))
