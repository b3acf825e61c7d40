"""Reads the small text files a user hands over; whatever is wrong with one is a UserError that names it."""

import json
import os
from pathlib import Path
from typing import Any, Final

from memplanner.errors import Problem, UserError
from memplanner.files.sandbox import refuse_outside
from memplanner.units import MIB, format_bytes

MAX_FILE_BYTES = MIB
MOST_LEVELS: Final = 64
"""Tables inside tables; no setting lies half as deep."""
_MOST_BITS: Final = 4096
"""Of an integer: Python writes larger ones out of hexadecimal reluctantly, or not at all."""
_MOST_DOTS: Final = 256
"""In a line of TOML: reading a dotted key takes time with the square of its parts."""

Table = dict[str, Any]
"""Raw settings, as a file has them."""


def file_error(where: object, message: str, hint: str = "") -> UserError:
    """A UserError about a whole file."""
    return UserError(Problem(where=str(where), key="", message=message, hint=hint))


def read_text(path: Path, *, most: int = MAX_FILE_BYTES) -> str:
    """The UTF-8 text of a regular file of at most `most` bytes (1 MiB). Every file of a user's is read by this, or its
    beginning; in continuous integration none may be a link out of the repository.
    """
    refuse_outside(path)
    try:
        if not os.path.exists(path):
            raise file_error(path, "no such file")
        if not os.path.isfile(path):
            raise file_error(path, "is not a file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise file_error(path, f"cannot be read: {reason}") from None
    if len(data) > most:
        raise file_error(path, f"is larger than {format_bytes(most, decimals=0)}: not a file of settings")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise file_error(path, f"is not UTF-8 text (byte {error.start})") from None


def parse_json(text: str, where: object) -> dict[str, Any]:
    """The JSON object in `text`."""
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        cut = " (the file is cut short)" if not text[error.pos :].strip() else ""
        raise file_error(
            where, f"not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}{cut}"
        ) from None
    except _TwiceError as error:
        raise file_error(where, f"has the key {error} twice in one object") from None
    except (ValueError, RecursionError):
        raise file_error(where, "not usable JSON: a number too long or nesting too deep") from None
    bounded(value, where)
    if not isinstance(value, dict):
        raise file_error(where, f"holds a JSON {_JSON_TYPES[type(value)]}, not an object")
    return value


class _TwiceError(Exception):
    """An object has a key twice, so that one of the two values would be ignored. Its text is the key."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _TwiceError(repr(key[:60]))
            seen.add(key)
    return table


_JSON_TYPES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def parse_toml(text: str, where: object) -> dict[str, Any]:
    """The TOML document in `text`."""
    import tomllib

    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > _MOST_DOTS:
            raise file_error(where, f"has more than {_MOST_DOTS} dots on line {number}: not a file of settings")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise file_error(where, f"not valid TOML: {error}") from None
    except (ValueError, RecursionError):
        raise file_error(where, "not usable TOML: a number too long or nesting too deep") from None
    bounded(table, where)
    return table


def read_table(path: Path, *, mentioning: str = "") -> Table:
    """The JSON object or TOML document in a file.

    It is JSON where the file's name or its first character says so. mentioning: a word without which the file, which
    may be another tool's, is of no interest: the table is empty where it does not occur.
    """
    text = read_text(path)
    if mentioning not in text:
        return {}
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        return parse_json(text, path)
    return parse_toml(text, path)


def bounded(value: object, where: object) -> None:
    """UserError where a parsed value nests tables so deeply, or holds an integer so long, that later code would fail.

    Visited level by level, each container once, so that aliases in a YAML file, which multiply what they name, cost
    nothing.
    """
    level: list[object] = [value]
    for _ in range(MOST_LEVELS):
        inner: dict[int, object] = {}
        for item in level:
            if isinstance(item, int) and item.bit_length() > _MOST_BITS:
                raise file_error(where, f"holds an integer of {item.bit_length()} bits: no setting is that large")
            if isinstance(item, dict):
                inner.update((id(each), each) for pair in item.items() for each in pair)
            elif isinstance(item, list | tuple):
                inner.update((id(each), each) for each in item)
        level = list(inner.values())
        if not level:
            return
    raise file_error(where, f"has more than {MOST_LEVELS} levels of tables: not a file of settings")
