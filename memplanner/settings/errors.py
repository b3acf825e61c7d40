"""pydantic's validation errors as Problems: the key as the file spells it, the value, the nearest right spelling."""

import reprlib
from collections.abc import Callable, Iterable
from datetime import date, time
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from memplanner.errors import Problem, nearest
from memplanner.settings.base import Settings
from memplanner.settings.describe import choices, groups, kind_of

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlevel = 2
_HINTED: Final = 50
"""Unknown keys for which the nearest known one is looked up, which takes longer than all else about them."""


def show(value: Any) -> str:
    """A value for a message: its repr, cut to a readable length."""
    if isinstance(value, date | time):  # TOML has them
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return _short.repr(value).replace("\\\\", "\\")  # a pattern's backslashes as they were typed
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else _short.repr(value)


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest names, or all of them when none is near."""
    known = list(known)
    return nearest(name, known) or (f"one of {', '.join(known)}" if known else "")


def one_of(words: Iterable[str]) -> str:
    """Words to choose from: "lora, dora or galore"."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def problems_of(
    error: ValidationError, cls: type[Settings], place: Callable[[tuple[str, ...]], tuple[str, str]]
) -> list[Problem]:
    """One Problem per pydantic error.

    place: a function from a key's path to the Problem's (where, key): a value typed as a flag is the flag's problem.
    """
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        path, owner = _path(detail["loc"], cls)
        if detail["type"] == "extra_forbidden" and len(problems) >= _HINTED:
            message, hint = "unknown key", ""
        elif detail["type"] in ("union_tag_invalid", "union_tag_not_found", "extra_forbidden"):
            message, hint = _name_problem(detail, path, owner)
        else:
            message, hint = _value_problem(detail, path, owner)
        where, key = place(path)
        problems.append(Problem(where=where, key=key, message=message, hint=hint))
    return problems


def _path(loc: tuple[int | str, ...], cls: type[Settings]) -> tuple[tuple[str, ...], type[Settings] | None]:
    """The key's path without pydantic's union tags, and the class that holds (or should hold) its last key."""
    path: list[str] = []
    owner: type[Settings] | None = cls
    parts = list(loc)
    while parts:
        part = parts.pop(0)
        path.append(str(part))
        if isinstance(part, int) or owner is None or not parts:
            continue
        members = groups(owner, part)
        if len(members) > 1:
            tag = parts.pop(0)
            members = tuple(member for member in members if kind_of(member) == tag)
        owner = members[0] if members else None
        if not parts:
            break
    return tuple(path), owner


def _name_problem(detail: ErrorDetails, path: tuple[str, ...], owner: type[Settings] | None) -> tuple[str, str]:
    """(message, hint) where a key or a kind is not one of those that there are."""
    known = choices(owner, path[-1]) if owner is not None and path[-1] in owner.model_fields else ()
    if detail["type"] == "extra_forbidden":
        import difflib  # for an error only

        close = difflib.get_close_matches(path[-1].replace("-", "_"), list(owner.model_fields) if owner else [], n=1)
        names = ", ".join(owner.model_fields) if owner else ""
        return "unknown key", f"did you mean {close[0]!r}?" if close else f"known keys: {names}" if names else ""
    if detail["type"] == "union_tag_not_found":
        return "its kind is missing", f"kind = one of {', '.join(known)}"
    tag = str(detail["ctx"]["tag"])
    return f"{show(tag)} is not a known {path[-1]}", suggest(tag, known)


def _value_problem(detail: ErrorDetails, path: tuple[str, ...], owner: type[Settings] | None) -> tuple[str, str]:
    """(message, hint) where a value has the wrong type, or lies outside of what is accepted."""
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context["error"]), ""
        case "literal_error" if owner is not None:
            return f"{show(value)} is not a known {path[-1].replace('_', ' ')}", suggest(
                str(value), choices(owner, path[-1])
            )
        case "greater_than_equal":
            return f"{show(value)} is below {context['ge']}", ""
        case "less_than_equal":
            return f"{show(value)} is above {context['le']}, the most that is accepted", ""
        case "less_than":
            return f"{show(value)} is not below {context['lt']}", ""
        case "int_type" | "int_from_float":
            return f"{show(value)} is not a whole number", ""
        case "float_type":
            return f"{show(value)} is not a number", ""
        case "bool_type":
            return f"{show(value)} is not true or false", ""
        case "string_type":
            return f"{show(value)} is not text", ""
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{show(value)} is not a table of settings", ""
        case "tuple_type":
            return f"{show(value)} is not a list", ""
        case "missing":
            return "is missing", ""
        case "string_too_short":
            return "is empty", ""
        case "too_long":
            return f"has {len(value)} entries, more than {context['max_length']}", ""
        case _:
            return f"{show(value)}: {detail['msg']}", ""
