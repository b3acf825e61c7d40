"""The line on which a file sets a key, for messages and annotations to point at."""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

from memplanner.files.yaml_text import key_lines

_HEADER: Final = re.compile(r"\s*\[[^\[\]]+\]\s*(#.*)?", re.ASCII)
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", re.ASCII)


def line_of(text: str, keys: Sequence[str], *, form: Literal["toml", "yaml"] = "toml") -> int | None:
    """The line (from 1) where a text sets a key or begins a table; None where it does neither. JSON counts as YAML.

    To point at, not to rely on: tomllib tells no lines, so in TOML a line inside a multi-line string may be taken for
    one of the document.
    """
    return _lines(text, form).get(tuple(keys))


@functools.lru_cache(maxsize=4)
def _lines(text: str, form: str) -> dict[tuple[str, ...], int]:
    """The first line of every key and table."""
    return _toml_lines(text) if form == "toml" else key_lines(text)


def _toml_lines(text: str) -> dict[tuple[str, ...], int]:
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if _HEADER.fullmatch(line):
            table = next(iter(_paths(line)), ())
            here = [table]
        elif match := _KEY.match(line):
            here = [(*table, *path) for path in _paths(line) or _paths(f"{match[1]} = 0")]
        else:
            continue
        for path in here:
            for length in range(len(path), 0, -1):
                lines.setdefault(path[:length], number)
    return lines


def _paths(line: str) -> list[tuple[str, ...]]:
    """The keys of a one-line TOML document, those of inline tables too; nothing where it is none."""
    import tomllib

    try:
        return list(_leaves(tomllib.loads(line)))
    except (ValueError, RecursionError):
        return []


def _leaves(value: Any) -> Iterator[tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        yield ()
        return
    for key, inner in value.items():
        yield from ((key, *path) for path in _leaves(inner))
