"""The arguments of every command that works on a plan, and the plan they add up to."""

import argparse
from pathlib import Path
from typing import Any

from memplanner.errors import Problem, UserError
from memplanner.plan.flags import OPTIONS
from memplanner.plan.load import LoadedPlan, load_plan


def add_plan_arguments(parser: argparse.ArgumentParser, *, described: bool, formats: tuple[str, ...]) -> None:
    """MODEL, one flag per field of the plan, --plan and --format. A flag that is not typed leaves no trace."""
    parser.add_argument(
        "model", nargs="?", default="", metavar="MODEL", help="a bundled model's name, or the path of a config.json"
    )
    add_plan_flags(parser, described=described)
    parser.add_argument(
        "--plan",
        default="",
        metavar="FILE",
        help="a plan file in TOML or JSON, an earlier answer in JSON, or the name of a plan in memplanner.toml or of a "
        "bundled plan (default: memplanner.toml, [tool.memplanner] in pyproject.toml, or a bundled plan)",
    )
    parser.add_argument(
        "--from",
        dest="configs",
        action="append",
        default=[],
        metavar="CONFIG",
        help="instead of --plan, another tool's config: Axolotl's, LLaMA-Factory's, transformers' TrainingArguments or "
        "peft's adapter_config.json (give --from twice for the last two together)",
    )
    parser.add_argument(
        "--ignore-key",
        dest="ignored",
        action="append",
        default=[],
        metavar="KEY",
        help="with --from: answer as if the config did not have this key, for one that is not understood or not "
        "modelled (may be given several times)",
    )
    parser.add_argument("--format", choices=formats, default="text", help="how the answer is written (default: text)")


def add_plan_flags(parser: argparse.ArgumentParser, *, described: bool) -> None:
    """One flag per field of the plan."""
    group = parser.add_argument_group("plan", "typed flags win over the plan file")
    for option in OPTIONS:
        text = option.describe().replace("%", "%%") if described else None
        if option.values == "switch":
            group.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            metavar = option.placeholder() if described else None
            group.add_argument(option.flag, default=argparse.SUPPRESS, metavar=metavar, help=text)


def typed_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Flag → typed text (True or False for switches), of the plan's flags that were typed."""
    typed = vars(args)
    return {option.flag: typed[option.dest] for option in OPTIONS if option.dest in typed}


def refuse_pairs(args: argparse.Namespace) -> None:
    """UserError where arguments were typed that cannot be combined."""
    if args.configs and args.plan:
        raise UserError(Problem(where="--from", key="", message="cannot be combined with --plan"))
    if args.ignored and not args.configs:
        raise UserError(Problem(where="--ignore-key", key="", message="requires --from"))


def loaded(args: argparse.Namespace, root: Path) -> LoadedPlan:
    """The plan that the arguments and the files in `root` add up to."""
    refuse_pairs(args)
    flags = typed_flags(args)
    return load_plan(
        root=root, plan_file=args.plan, model=args.model, flags=flags, configs=args.configs, ignored=args.ignored
    )
