"""Suite files: groups of plans to be measured together, each a base plan and a grid of values that vary it."""

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from memplanner.catalogue import file_of, find_model, stems
from memplanner.errors import Problem, UserError
from memplanner.files.parse import file_error, parse_toml, read_text
from memplanner.files.write import file_name
from memplanner.plan.merge import merge
from memplanner.plan.overlay import overlay
from memplanner.plan.qlora import spell_out
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.base import Settings
from memplanner.settings.errors import problems_of, show, suggest

MOST_CASES = 10_000
_KEY = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", re.ASCII)
"""The dotted name of a setting."""
_ENOUGH = 100
"""Problems, after which no further plan is looked at: the plans of a group mostly have the same."""


class Group(Settings):
    """A base plan and the grid of values that it is run with, one plan for every combination."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")]
    plan: dict[str, Any] = {}
    """Settings of every plan of the group, as in a plan file; they take precedence over the suite's."""
    grid: dict[str, list[Any]] = {}
    """Dotted name of a setting, such as step.batch_size → the values it takes."""
    cap_memory: bool = False
    """Limit the process to the memory that the plan's card would give it (cuda)."""
    rank_evidence: bool = False
    """Also measure how much of each weight's gradient low ranks hold (cuda and cpu)."""
    warmup: Annotated[int, Field(ge=1, le=1000)] = 1
    """Steps before the timed ones."""
    steps: Annotated[int, Field(ge=0, le=1000)] = 2
    """Steps that are timed."""


class Suite(Settings):
    """The contents of a suite file, one of profiles/suites or a user's own."""

    description: str = ""
    plan: dict[str, Any] = {}
    """Settings of every plan, as in a plan file."""
    group: list[Group]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One plan to run and how. id: names the case and, as any system can have it, its record's file. root: where the
    plan's paths begin.
    """

    id: str
    plan: TrainingPlan
    root: Path
    cap_memory: bool = False
    rank_evidence: bool = False
    warmup: int = 1
    steps: int = 2


def load_suite(name: str, root: Path) -> list[Case]:
    """The cases of a suite file or of a bundled suite, in the file's order. UserError with every problem."""
    path = root / name
    if not os.path.exists(path):
        bundled = stems("suites", ".toml")
        if name not in bundled:
            raise file_error("--suite", f"no file or bundled suite is called {show(name)}", suggest(name, bundled))
        path = file_of("suites", name, ".toml")
    try:
        suite = Suite.model_validate(parse_toml(read_text(path), path))
    except ValidationError as error:
        raise UserError(*problems_of(error, Suite, lambda key: (str(path), ".".join(key)))) from None
    for group in suite.group:
        _check_grid(group, path)
    total = sum(math.prod(map(len, group.grid.values())) for group in suite.group)
    if total > MOST_CASES:
        raise file_error(path, f"is more than {MOST_CASES:,} plans")
    problems: list[Problem] = []
    cases: dict[str, Case] = {}
    for group in suite.group:
        for label, table in _combinations(suite.plan, group, path):
            if len(problems) >= _ENOUGH:
                raise UserError(*problems)
            case_id = file_name(f"{group.name}-{label}" if label else group.name)
            where = f"{path}, {case_id}"
            if case_id in cases:
                problems.append(Problem(where=where, key="", message="two plans have this name"))
                continue
            try:
                plan = merge(table, {}, where=where)
            except UserError as error:
                problems += error.problems
                continue
            cases[case_id] = Case(
                id=case_id,
                plan=plan,
                root=path.parent,
                cap_memory=group.cap_memory,
                rank_evidence=group.rank_evidence,
                warmup=group.warmup,
                steps=group.steps,
            )
    for model, case in {case.plan.model: case for case in cases.values()}.items():
        try:
            find_model(model, case.root)  # before the first case runs, and not when its turn comes
        except UserError as error:
            problems += (problem.replaced(where=f"{path}, {case.id}", key="model") for problem in error.problems)
    if problems:
        raise UserError(*problems)
    return list(cases.values())


def _check_grid(group: Group, path: Path) -> None:
    for key, values in group.grid.items():
        if _KEY.fullmatch(key) is None:
            hint = "such as step.batch_size"
            raise file_error(path, f"group {group.name}: grid {show(key)} is not the name of a setting", hint)
        if not values:
            raise file_error(path, f"group {group.name}: grid {show(key)} has no values")


def _combinations(common: Mapping[str, Any], group: Group, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each combination of the grid's values: its label, which ends the case's id, and its plan's table."""
    for point in itertools.product(*group.grid.values()):
        table = overlay(spell_out(common), spell_out(group.plan))
        for key, value in zip(group.grid, point, strict=True):
            *parents, last = key.split(".")
            node = table
            for parent in parents:
                inner = node.setdefault(parent, {})
                if not isinstance(inner, str | dict):
                    raise file_error(path, f"group {group.name}: grid {show(key)} is in {parent}, which is no table")
                node[parent] = node = {"kind": inner} if isinstance(inner, str) else inner
            node[last] = value
        label = "-".join(filter(None, (_label(k, v) for k, v in zip(group.grid, point, strict=True))))
        yield label, table


def _label(key: str, value: Any) -> str:
    """A value as part of a case's id, which is a file's name: batch_size = 8 is "bs8", padding = true "padding"."""
    if isinstance(value, bool):
        return key.rpartition(".")[2].replace("_", "-") if value else ""
    if isinstance(value, Mapping):
        text = "-".join(_label(k, v) if not isinstance(v, str) else v for k, v in value.items())
    elif isinstance(value, int):
        text = f"{''.join(word[:1] for word in key.rpartition('.')[2].split('_'))}{value}"
    else:
        text = "" if value == "none" else str(value)
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
