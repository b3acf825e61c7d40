"""memplanner compare: methods and ranks side by side at equal settings."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memplanner.cli.argument_types import integers
from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, loaded, typed_flags
from memplanner.errors import Problem, UnsupportedError, UserError
from memplanner.plan.flags import METHODS as WORDS
from memplanner.plan.load import LoadedPlan
from memplanner.plan.merge import merge
from memplanner.report.compare_text import Comparison
from memplanner.report.terminal import Page
from memplanner.report.writers import COMPARE
from memplanner.settings.errors import show, suggest
from memplanner.solve.compare import METHODS, at_equal_ranks

if TYPE_CHECKING:
    from memplanner.prediction import Estimate


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described, formats=COMPARE.formats)
    methods = ",".join(METHODS)
    described_as = f"which methods of {','.join(WORDS)} (default: {methods})"
    parser.add_argument("--methods", default=methods, metavar="A,B", help=described_as)
    ranks = integers("--ranks", f"a rank from 1 to {1 << 20}", least=1, most=1 << 20)
    parser.add_argument("--ranks", default=(), type=ranks, metavar="N,N", help="which ranks (default: the plan's)")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import predict

    methods = _methods(args.methods)
    loaded_plan = _loaded(args, root, methods)
    table = loaded_plan.plan.model_dump(mode="json")
    typed = {flag: text for flag, text in typed_flags(args).items() if flag == "--quantization"}
    words: list[str] = []
    estimates: list[Estimate] = []
    refused: dict[str, UnsupportedError] = {}
    for flags in at_equal_ranks(loaded_plan.plan, methods, args.ranks):
        word = str(flags["--method"])
        plan = merge(table, {**flags, **typed}, where="plan")
        try:
            estimates.append(predict(plan, root=loaded_plan.root))
        except UnsupportedError as error:  # of this method; the others are compared without it
            refused[word] = error
        else:
            words.append(word)
    if not estimates:
        raise next(iter(refused.values()))
    left_out = {method: error.problems[0].message for method, error in refused.items()}
    answer = Comparison(methods=words, estimates=estimates, label=loaded_plan.label, left_out=left_out)
    return Answer(text=COMPARE.write(args.format, answer, page))


def _loaded(args: argparse.Namespace, root: Path, methods: Sequence[str]) -> LoadedPlan:
    """The plan; where its own method is none that its other settings allow, with the first of these that they allow."""
    try:
        return loaded(args, root)
    except UserError:
        if "method" in args:
            raise
        for method in methods:
            with contextlib.suppress(UserError):
                return loaded(argparse.Namespace(**vars(args), method=method), root)
        raise


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    problems = [
        Problem(where="--methods", key="", message=f"{show(name)} is not a known method", hint=suggest(name, WORDS))
        for name in names
        if name not in WORDS
    ]
    if problems or not names:
        raise UserError(*problems or [Problem(where="--methods", key="", message="no method is named")])
    return names
