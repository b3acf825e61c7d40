"""Several plans in one file: `[plans.NAME]` tables over what the file says of all of them.

A plan may start `from` another framework's config: it wins over what the file says of all, and loses to the plan's own
settings.
"""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memplanner.errors import Problem, UserError
from memplanner.files.parse import Table
from memplanner.files.sandbox import resolve_inside
from memplanner.frozen import Frozen
from memplanner.plan.overlay import overlay
from memplanner.plan.qlora import spell_out
from memplanner.plan.sources import PLANS
from memplanner.settings.errors import show

if TYPE_CHECKING:
    from memplanner.frameworks import Foreign

FROM: Final = "from"
IGNORED: Final = "ignore_keys"
"""Keys of the configs that are passed over."""
MOST: Final = 256
"""Plans in one file."""
MOST_SETTINGS: Final = 500_000
"""Settings that the plans of a file may take over from it, all together: each plan has a copy of them."""
NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", re.ASCII)
"""What a plan may be called."""


class NamedTable(Frozen):
    """A plan's raw settings. foreign: the config it starts from."""

    name: str
    table: Table
    label: str
    foreign: "Foreign | None" = None


def named_tables(table: Table, label: str, root: Path) -> tuple[NamedTable, ...]:
    """The plans of a file's table, in its order; UserError with all that is wrong with their names and shapes.

    root: where the paths of other frameworks' configs start from, and what they may not leave.
    """
    plans = table[PLANS]
    shared = spell_out({key: value for key, value in table.items() if key != PLANS})
    if not isinstance(plans, dict) or not plans:
        raise UserError(Problem(where=label, key=PLANS, message=f"{show(plans)} is not a table of plans by name"))
    if len(plans) > MOST:
        raise UserError(Problem(where=label, key=PLANS, message=f"{len(plans)} plans are more than {MOST} in one file"))
    if (count := _settings(shared) * len(plans)) > MOST_SETTINGS:
        message = f"{len(plans)} plans with what the file sets for all come to {count:,} settings"
        raise UserError(Problem(where=label, key=PLANS, message=message, hint=f"at most {MOST_SETTINGS:,} are read"))
    problems: list[Problem] = []
    if FROM in shared:
        message, hint = "is a setting of one plan, not of all", "under [plans.NAME]"
        problems.append(Problem(where=label, key=FROM, message=message, hint=hint))
    tables = []
    read = _reader()
    for name, own in plans.items():
        if NAME.fullmatch(name) is None:
            hint = "names are up to 64 letters, digits, '.', '_' and '-'"
            problems.append(
                Problem(where=label, key=PLANS, message=f"{show(name)} is not a name for a plan", hint=hint)
            )
        elif not isinstance(own, dict):
            message = f"{show(own)} is not a table of settings"
            problems.append(Problem(where=label, key=f"{PLANS}.{name}", message=message))
        else:
            try:
                tables.append(_one(name, own, shared, f"{label}: {PLANS}.{name}", root, read))
            except UserError as error:
                problems += error.problems
    if problems:
        raise UserError(*problems)
    return tuple(tables)


def _settings(value: Any) -> int:
    """The keys and entries in a value, at any depth."""
    if not isinstance(value, dict | list):
        return 1
    return 1 + sum(map(_settings, value.values() if isinstance(value, dict) else value))


_Read = Callable[[tuple[Path, ...], str, tuple[str, ...]], "Foreign"]


def _reader() -> _Read:
    """read_framework, which reads a config once for all the plans that start from it, and parses its file once."""

    @functools.cache
    def parsed(path: Path) -> Table:
        from memplanner.frameworks.config_file import read_config

        return read_config(path)

    @functools.cache
    def read(paths: tuple[Path, ...], model: str, ignored: tuple[str, ...]) -> "Foreign":
        from memplanner.frameworks import read_framework

        return read_framework(paths, model, ignored, parsed=parsed)

    return read


def _names(value: Any, label: str, key: str) -> tuple[str, ...]:
    """A name, or a list of names."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(Problem(where=label, key=key, message=f"{show(value)} is not a name or a list of names"))
    return tuple(words)


def _one(name: str, own: Table, shared: Table, label: str, root: Path, read: _Read) -> NamedTable:
    own = spell_out(own)
    start = own.pop(FROM, None)
    ignored = _names(own.pop(IGNORED, []), label, IGNORED)
    if start is None:
        if ignored:
            raise UserError(Problem(where=label, key=IGNORED, message=f"is for a plan with `{FROM}`"))
        return NamedTable(name=name, table=overlay(shared, own), label=label)
    words = _names(start, label, FROM)
    if not words:
        raise UserError(Problem(where=label, key=FROM, message=f"{show(start)} is not a file's name or a list of them"))
    model = own.get("model", shared.get("model", ""))
    paths = [resolve_inside(root, word, where=label, key=FROM) for word in words]
    for word, path in zip(words, paths, strict=True):
        if not os.path.isfile(path):
            raise UserError(Problem(where=label, key=FROM, message=f"{show(word)} is not a file"))
    foreign = read(tuple(paths), model if isinstance(model, str) else "?", ignored)
    return NamedTable(name=name, table=overlay(overlay(shared, foreign.table), own), label=label, foreign=foreign)
