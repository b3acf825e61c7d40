"""Typed flags laid over a table of settings: one TrainingPlan, or every problem at once."""

import functools
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from memplanner.errors import Problem, UserError
from memplanner.files.parse import Table
from memplanner.plan import moment_width
from memplanner.plan.flags import BY_FLAG, METHODS, Option, has_use, spelled_out
from memplanner.plan.overlay import copy_table, switch_kind
from memplanner.plan.qlora import spell_out
from memplanner.plan.training_plan import TrainingPlan, device_table
from memplanner.settings.base import Settings
from memplanner.settings.describe import expand, groups, kind_of, owners
from memplanner.settings.errors import problems_of, show, suggest

_CHOOSERS: Final = ("--method", "--loss", "--optimizer", moment_width.FLAG)
"""Flags that choose a kind, and with it which other fields exist: they come before all others, in this order."""
_GROUPS: Final = (("method",), ("optimizer",), ("step", "loss"), ("device",))
"""Groups that may be written as a word."""


def merge(base: Mapping[str, Any], flags: Mapping[str, Any], *, where: str) -> TrainingPlan:
    """The plan of a raw table with typed flags laid over it; UserError carrying every problem.

    flags: flag -> typed text (True and False for switches). where: what messages call the table.
    """
    table: Table = copy_table(spell_out(base))
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    written = spelled_out(flags)
    if isinstance(written, Problem):
        raise UserError(written)
    for flag, typed in written.items():
        value = BY_FLAG[flag].read(typed) if isinstance(typed, str) else typed
        numeric = BY_FLAG[flag].values in ("integer", "switch")
        if not isinstance(value, str | tuple | Problem) and not (numeric and isinstance(value, int)):  # a marker's
            value = Problem(where=flag, key="", message=f"{show(value)} is not text")
        if isinstance(value, Problem):
            problems.append(value)
        else:
            values[flag] = value
    set_by: dict[tuple[str, ...], str] = {}
    others = sorted((flag for flag in values if flag not in _CHOOSERS), key=lambda flag: len(BY_FLAG[flag].path))
    for flag in (*filter(values.__contains__, _CHOOSERS), *others):  # a group comes before what is inside it
        option, path = BY_FLAG[flag], BY_FLAG[flag].path
        if flag == moment_width.FLAG:
            path = ("optimizer",)
            problem = _choose_width(table, values[flag], values.get("--optimizer", ""))
        elif flag in _CHOOSERS:
            problem = _choose_kind(table, option, values[flag])
        else:
            problem = _set(table, option, values[flag])
        problems += [problem] if problem is not None else []
        set_by[path] = flag
    return _validated(table, problems, set_by, where)


def _validated(
    table: Table, problems: list[Problem], set_by: Mapping[tuple[str, ...], str], where: str
) -> TrainingPlan:
    """The plan; problems: those so far. set_by: the flag that set a field, which answers for its value."""

    def place(path: tuple[str, ...]) -> tuple[str, str]:
        """A flag that chooses a kind answers for the kind alone: the fields beside it may be the file's."""
        setters = ((length, set_by.get(path[:length], "")) for length in range(len(path), 0, -1))
        flag = next((f for length, f in setters if f and (length == len(path) or f not in _CHOOSERS)), "")
        return (flag, "") if flag else (where, ".".join(path))

    try:
        plan = TrainingPlan.model_validate(table)
    except ValidationError as error:
        flagged = {problem.where for problem in problems}  # one complaint about a flag is enough
        raise UserError(
            *problems, *(p for p in problems_of(error, TrainingPlan, place) if p.where not in flagged)
        ) from None
    if problems:
        raise UserError(*problems)
    return plan


def _group(table: Table, path: tuple[str, ...]) -> Any:
    """The table at a path, made if absent, with `method = "lora"` spelled out; whatever is there if it is no table."""
    at: Any = table
    for depth, key in enumerate(path, 1):
        if not isinstance(at, dict):
            return at
        value = at.setdefault(key, {})
        if isinstance(value, str) and path[:depth] in _GROUPS:
            at[key] = value = _expanded(path[:depth], value)
        at = value
    return at


def _expanded(path: tuple[str, ...], word: str) -> Table:
    """The table that a word stands for in the place of a group."""
    return device_table(word) if path == ("device",) else expand(_owner(path), path[-1], word)


def _owner(path: tuple[str, ...]) -> type[Settings]:
    """The settings class that has the group at a path."""
    return owners(TrainingPlan, path)[0]


def _kind(group: Any, path: tuple[str, ...]) -> str:
    """The kind that a group has, or falls back on."""
    return str(group["kind"]) if isinstance(group, dict) and "kind" in group else _default_kind(path)


@functools.cache
def _default_kind(path: tuple[str, ...]) -> str:
    return kind_of(type(_owner(path).model_fields[path[-1]].get_default(call_default_factory=True)))


def _choose_kind(table: Table, option: Option, word: str) -> Problem | None:
    """Switch a union to what a word stands for; settings that the new kind also has carry over."""
    if word not in option.words:
        message = f"{show(word)} is not a known {option.path[-1]}"
        words = METHODS if option.flag == "--method" else option.words
        return Problem(where=option.flag, key="", message=message, hint=suggest(str(word), words))
    _switch(table, option.path, expand(_owner(option.path), option.path[-1], word))
    return None


def _choose_width(table: Table, bits: int, word: str) -> Problem | None:
    """Switch the optimizer to the one whose moments have this width. word: what --optimizer says, or ""."""
    present = _kind(_group(table, ("optimizer",)), ("optimizer",))
    chosen = moment_width.table_for(bits, present=present, typed=word)
    if isinstance(chosen, Problem):
        return chosen
    _switch(table, ("optimizer",), chosen)
    return None


def _switch(table: Table, path: tuple[str, ...], new: Table) -> None:
    old = _group(table, path)
    member = next(cls for cls in groups(_owner(path), path[-1]) if kind_of(cls) == new["kind"])
    parent = _group(table, path[:-1])
    if isinstance(parent, dict):  # validation reports what is there instead of a table
        parent[path[-1]] = switch_kind(old, _kind(old, path), new, member)


def _set(table: Table, option: Option, value: Any) -> Problem | None:
    """Set one field; a Problem when the plan's method has no such field."""
    *_, name = option.path
    parent = _group(table, option.path[:-1])
    if not isinstance(parent, dict):
        return None  # validation reports what is there instead of a table
    method = _kind(parent, ("method",)) if option.path[0] == "method" else None
    if method is None or has_use(option.flag, method):
        parent[name] = value
        return None
    if not parent:
        del table["method"]  # nobody asked for one: it is not to be complained about as well
    if method not in METHODS:
        return None  # validation says so
    hint = f"methods that have one: {', '.join(option.methods)}"
    message = f"method {method!r} has no {name.replace('_', ' ')}"
    return Problem(where=option.flag, key="", message=message, hint=hint)
