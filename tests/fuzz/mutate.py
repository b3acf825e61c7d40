"""Changes valid values and texts into hostile ones: the structure mostly survives, so that readers are got through."""

import datetime
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import tomli_w
import yaml

HOSTILE_TEXTS = (
    *("", " ", "\n", "\x00", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "[red]x[/red]", "[link=x]y[/link]", "\u202eabc"),
    *("..", "../..", "/", "/etc/passwd", "~", "~nobody/x", "a/b/c", "x" * 300, "y" * 5000, "1" * 5000, "é" * 700),
    *("字" * 90, "\u0301" * 200, "<script>", "]]>", "&amp;", '"', "'", "\\", "::error::x", "##[error]x", "| a | b |"),
    *("none", "null", "true", "nan", "inf", "-1", "0", "1e400", "0x10", "１２", "²", "1_000", "1.5", "100%", "101%"),
    *("0GiB", "24GiB", "1e9GiB", "999999999999999TiB", "every-0", "every-99999", "rtx4090", "lora", "all-linear"),
    *("(a|a)*b", "(?i)x", "(a", "a{1,4294967296}", ".*" * 60, "\\", "[", "(?P<n>a)(?P=n)", "llama-60m", "model.json"),
    *("--rank", "-", "--", "=", ",", ",,", "1..", "1..9999999999", "8,16,…,1024", "2,1,…,9", "a:b", ":", "\ufeff"),
)
HOSTILE_NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 255, 256, 1 << 20, (1 << 20) + 1, 1 << 24, 1 << 31, (1 << 63) - 1, 1 << 63, 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, math.inf, -math.inf, math.nan),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [{}], {"": 1}, {"a": {"b": []}}, {"kind": "lora"})


def scalar(rng: random.Random) -> Any:
    """Something that is rarely right."""
    chance = rng.random()
    if chance < 0.4:
        return rng.choice(HOSTILE_TEXTS)
    if chance < 0.75:
        return rng.choice(HOSTILE_NUMBERS)
    return json.loads(json.dumps(rng.choice(OTHERS)))


def deep(levels: int) -> Any:
    """Lists inside lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def mutated(value: Any, rng: random.Random, words: Sequence[str], *, most: int = 4) -> Any:
    """A copy of the value with a few changes. words: keys and values that the readers know."""
    value = _copy(value)
    for _ in range(rng.randint(0, most)):
        value = _changed(value, rng, words)
    return value


def _size(value: Any) -> int:
    """The values inside, so that none is multiplied until writing it takes longer than reading it."""
    if isinstance(value, dict | list):
        return 1 + sum(map(_size, value.values() if isinstance(value, dict) else value))
    return 1


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _changed(value: Any, rng: random.Random, words: Sequence[str]) -> Any:
    """One change, somewhere inside."""
    if isinstance(value, dict) and value and rng.random() < 0.75:
        key = rng.choice(list(value))
        if isinstance(value[key], dict | list) and rng.random() < 0.7:
            value[key] = _changed(value[key], rng, words)
        else:
            _change_entry(value, key, rng, words)
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            value *= rng.choice((0, 2, 30)) if len(value) < 10 and _size(value) < 1000 else 0
        else:
            value[at] = _changed(value[at], rng, words)
        return value
    if isinstance(value, dict):
        value[rng.choice(words)] = _any(rng, words)
        return value
    return _any(rng, words)


def _change_entry(table: dict[str, Any], key: str, rng: random.Random, words: Sequence[str]) -> None:
    match rng.randrange(7):
        case 0:
            del table[key]
        case 1:
            table[rng.choice(words)] = table.pop(key)
        case 2:
            table[rng.choice(HOSTILE_TEXTS)] = table[key]
        case 3:
            table[rng.choice(words)] = _any(rng, words)
        case 4:
            table[key] = [table[key]] if rng.random() < 0.5 else {rng.choice(words): table[key]}
        case 5:
            table[key] = _copy(table[rng.choice(list(table))])
        case _:
            table[key] = _any(rng, words)


def _any(rng: random.Random, words: Sequence[str]) -> Any:
    chance = rng.random()
    if chance < 0.4:
        return rng.choice(words)
    if chance < 0.42:
        return deep(rng.choice((3, 63, 70, 200)))
    if chance < 0.5:
        return [_any(rng, words) for _ in range(rng.randrange(4))]
    return scalar(rng)


def scrambled(text: str, rng: random.Random) -> str:
    """The text with a few characters or stretches of it changed."""
    for _ in range(rng.randint(1, 3)):
        at, to = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        match rng.randrange(6):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + text[min(at + rng.randrange(4), len(text)) :]
            case 2:
                text = text[:at] + rng.choice("[]{}\"'=:,.#-\n\t\\&*!|>%@`0\x00\x1b\ufeff") + text[at:]
            case 3:
                text = text[:to] + text[at : at + 60] * rng.choice((1, 2, 40)) + text[to:]
            case 4:
                text = text[:at] + rng.choice(TOKENS) + text[at:]
            case _:
                text = text[:at] + rng.choice(HOSTILE_TEXTS) + text[at:]
    return text


TOKENS = (
    *("!!int ''", "!!float ''", "!!bool ''", "!!binary x", "!!set {a}", "!!omap [a]", "!!pairs [a]", "!!null ''"),
    *(
        "!!python/object:os.system x",
        "!!timestamp ''",
        "&a [*a]",
        "<<: *a\n",
        "? [a]\n: b\n",
        "--- \n",
        "...\n",
        "%YAML 9",
    ),
    *(
        "1:2:3",
        "0b1",
        "0o7",
        "0x",
        "1979-05-27T07:32:00Z",
        "+inf",
        "-nan",
        "[[a]]\n",
        "[a.b]\n",
        '"""',
        "'''",
        "1e9999",
    ),
    *("Infinity", "-Infinity", "NaN", '"\\ud800"', "\\u0000", "1" * 5000, "-" * 300, "[" * 300, "{" * 300, "a." * 300),
)


def as_json(value: Any) -> str:
    return json.dumps(value)


def as_toml(value: Any) -> str:
    """TOML as far as it has the value: it knows no null, and keys are texts."""
    table = _without_none(value)
    return tomli_w.dumps(table if isinstance(table, dict) else {"a": table}, indent=0)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value if inner is not None]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**4000:
        return datetime.date(1979, 5, 27)
    return value


def as_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_DUMPER, allow_unicode=True)


_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def written(value: Any, rng: random.Random, write: Callable[[Any], str]) -> str:
    """The value as text, at times with slips in it."""
    try:
        text = write(value)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError):
        text = as_json(value)
    return scrambled(text, rng) if rng.random() < 0.2 else text
