"""memplanner sweep: every combination of several values per setting."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from memplanner.catalogue import model_inside
from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, refuse_pairs, typed_flags
from memplanner.cli.typed_values import values_of
from memplanner.errors import Problem, UserError
from memplanner.plan.flags import BY_FLAG, MODEL
from memplanner.plan.load import find_base
from memplanner.report.sweep_text import PointsAnswer, SweepAnswer
from memplanner.report.terminal import Page
from memplanner.report.writers import POINTS, SWEEP
from memplanner.settings.errors import show, suggest
from memplanner.timeline import advisable

if TYPE_CHECKING:
    from memplanner.solve.sweep import Axis, Point

SINGLE = ("--target-modules",)
"""Flags whose commas belong to one value."""
FORMATS = (*SWEEP.formats, *POINTS.formats)
AWAITED = 1000
"""Points that are made before the first is written, where they are written one by one."""
PATIENCE_S = 1.0
"""Seconds without a progress bar."""


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described, formats=FORMATS)
    parser.epilog = (
        "Any flag of the plan takes several values: --rank 8,16,…,1024 doubles, --batch-size 1..16 counts, "
        "--gpu rtx4090,rtx3090 lists; so does MODEL."
    )
    parser.add_argument(
        "--both", default="", metavar="SWITCH,SWITCH", help="with and without each, such as per-layer-updates"
    )
    parser.add_argument(
        "--show",
        choices=("all", "fits", "frontier"),
        help="which plans text and Markdown list: all; those that fit; or those that fit and that none beats "
        "(default: all up to 40, else the frontier)",
    )
    parser.add_argument("--strict", action="store_true", help="a tight fit counts as not fitting")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import Predictor
    from memplanner.solve.sweep import points_of, sweep

    refuse_pairs(args)
    source, foreign = find_base(
        root=root, plan_file=args.plan, model=args.model, configs=args.configs, ignored=args.ignored
    )
    axes, flags, table = _axes(args, root, dict(source.table))
    if foreign is not None and not args.model:
        model_inside(source.root, str(table[MODEL]), where=source.label)
    predict = Predictor(root if args.model else source.root)
    total = prod(len(axis.values) for axis in axes)
    if args.format in POINTS.formats:

        def points() -> Iterator["Point"]:
            with _progress(total, over_lines=not args.output) as advance:
                yield from points_of(table, flags, axes, predict, where=source.label, advance=advance)

        return _while_made(points(), axes, args, page)
    with _progress(total) as advance:
        result = sweep(table, flags, axes, predict, where=source.label, advance=advance)
    code = ExitCode.OK if result.fitting(strict=args.strict) else ExitCode.DOES_NOT_FIT
    answer = SweepAnswer(sweep=result, label=source.label, show=args.show, strict=args.strict)
    return Answer(text=SWEEP.stream(args.format, answer, page), code=code)


def _while_made(points: Iterator["Point"], axes: Sequence["Axis"], args: argparse.Namespace, page: Page) -> Answer:
    """The answer whose points are written when they are made, and not kept. Of what is wrong with the question, most
    shows with the first of them: so they are awaited.
    """
    code = ExitCode.USAGE_ERROR  # nobody knows, for as long as more are to come

    def watched() -> Iterator["Point"]:
        nonlocal code
        for point in chain(first, points):
            if advisable(point, strict=args.strict):
                code = ExitCode.OK
            yield point
        if code is not ExitCode.OK:
            code = ExitCode.DOES_NOT_FIT

    first = list(islice(points, AWAITED))
    answer = PointsAnswer(axes=axes, points=watched())
    return Answer(text=POINTS.stream(args.format, answer, page), code=lambda: code)


def _axes(
    args: argparse.Namespace, root: Path, table: dict[str, object]
) -> tuple[list["Axis"], dict[str, str | bool], dict[str, object]]:
    """What varies, what is typed once, and the table with a single model in it."""
    from memplanner.solve.sweep import Axis

    axes: list[Axis] = []
    flags: dict[str, str | bool] = {}
    if args.model:
        names = (args.model,) if os.path.exists(root / args.model) else values_of(MODEL, args.model)
        if len(names) > 1:
            axes.append(Axis(name=MODEL, values=names))
        else:
            table[MODEL] = names[0]
    for flag, typed in typed_flags(args).items():
        values = (typed,) if isinstance(typed, bool) or flag in SINGLE else values_of(flag, typed)
        if len(values) > 1:
            axes.append(Axis(name=flag, values=values))
        else:
            flags[flag] = values[0]
    switches = {flag.removeprefix("--"): flag for flag, option in BY_FLAG.items() if option.values == "switch"}
    for name in filter(None, (word.strip().removeprefix("--") for word in args.both.split(","))):
        if name not in switches:
            message = f"{show(name)} is not a switch"
            raise UserError(Problem(where="--both", key="", message=message, hint=suggest(name, switches)))
        axes.append(Axis(name=switches[name], values=(False, True)))
        flags.pop(switches[name], None)
    return axes, flags, table


@contextlib.contextmanager
def _progress(total: int, *, over_lines: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr, from the moment on that the sweep has taken a second. over_lines: stdout is written
    to meanwhile, so that there is none where it goes to a terminal.
    """
    if not sys.stderr.isatty() or (over_lines and sys.stdout.isatty()):
        yield lambda _: None
        return
    began = time.monotonic()
    bars: list[Callable[[int], None]] = []
    done = 0
    with contextlib.ExitStack() as stack:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if bars:
                bars[0](count)
            elif time.monotonic() - began > PATIENCE_S:
                bars.append(stack.enter_context(_bar(total)))
                bars[0](done)

        yield advance


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Sequence[TextColumn | BarColumn | MofNCompleteColumn | TimeRemainingColumn] = (
        TextColumn("plans"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("plans", total=total)
        yield lambda count: progress.advance(task, count)
