"""Reads the small text files a user hands over; whatever is wrong with one is a UserError that names it."""

import json
from pathlib import Path
from typing import Any

from memplanner.errors import Problem, UserError
from memplanner.units import MIB, format_bytes

MAX_FILE_BYTES = MIB

Table = dict[str, Any]
"""Raw settings, as a file has them."""


def wrong(where: object, message: str, hint: str = "") -> UserError:
    """A UserError about a whole file."""
    return UserError(Problem(where=str(where), key="", message=message, hint=hint))


def read_text(path: Path, *, most: int = MAX_FILE_BYTES) -> str:
    """The UTF-8 text of a regular file of at most `most` bytes (1 MiB)."""
    try:
        if not path.exists():
            raise wrong(path, "no such file")
        if not path.is_file():
            raise wrong(path, "is not a file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise wrong(path, f"cannot be read: {reason}") from None
    if len(data) > most:
        raise wrong(path, f"is larger than {format_bytes(most, decimals=0)}: not a file of settings")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise wrong(path, f"is not UTF-8 text (byte {error.start})") from None


def parse_json(text: str, where: object) -> dict[str, Any]:
    """The JSON object in `text`."""
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        cut = " (the file is cut short)" if not text[error.pos :].strip() else ""
        raise wrong(where, f"not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}{cut}") from None
    except _TwiceError as error:
        raise wrong(where, f"has the key {error} twice in one object") from None
    except (ValueError, RecursionError):
        raise wrong(where, "not usable JSON: a number too long or nesting too deep") from None
    if not isinstance(value, dict):
        raise wrong(where, f"holds a JSON {_JSON_TYPES[type(value)]}, not an object")
    return value


class _TwiceError(Exception):
    """Says which key an object has twice: one of the two values would be ignored."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _TwiceError(repr(key[:60]))
            seen.add(key)
    return found


_JSON_TYPES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def parse_toml(text: str, where: object) -> dict[str, Any]:
    """The TOML document in `text`."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise wrong(where, f"not valid TOML: {error}") from None
    except (ValueError, RecursionError):
        raise wrong(where, "not usable TOML: a number too long or nesting too deep") from None
