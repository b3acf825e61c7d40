"""JSON whose first line has the SHA-256 of the rest, so that what was changed by hand is found."""

import hashlib
import json
from typing import Any, Final

_FIRST: Final = '{\n"sha256": "'


def dumps(table: dict[str, Any]) -> str:
    """The text: lists of lists have a row a line."""
    rest = f"{_lines(table).removeprefix('{')}\n"
    return f'{_FIRST}{_sum(rest)}",{rest}'


def loads(text: str) -> dict[str, Any]:
    """What `dumps` wrote; ValueError where it was changed since."""
    first, rest = text[: len(_FIRST)], text[len(_FIRST) + 64 + 2 :]
    if first != _FIRST:
        raise ValueError("it has no sum in its first line")
    if text != f'{_FIRST}{_sum(rest)}",{rest}':
        raise ValueError("it was changed after it was written: its sum is another")
    table: dict[str, Any] = json.loads("{" + rest)
    return table


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _lines(value: Any) -> str:
    if isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()):
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {_lines(item)}" for key, item in value.items()) + "\n}"
    if isinstance(value, list) and value and all(isinstance(item, dict | list) for item in value):
        is_deep = any(isinstance(item, dict) for item in value)
        return "[\n" + ",\n".join(_lines(item) if is_deep else json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)
