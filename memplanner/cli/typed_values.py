"""Several values of one flag, typed as a list: 8,16,32 or 8,16,…,1024 or 1..16."""

from collections.abc import Iterator, Sequence
from typing import Final

from memplanner.errors import Problem, UserError
from memplanner.plan.flags import BY_FLAG
from memplanner.solve.sweep import MOST

_STEP: Final = ("...", "…", "..")


def values_of(name: str, text: str) -> tuple[str, ...]:
    """The values in a typed list: "8,16", "1..16", "128..1024..128", "8,16,…,1024" (doubling, where the second is
    twice the first; else in equal steps). UserError where it is none.
    """
    integer = name in BY_FLAG and BY_FLAG[name].values == "integer"
    words = [word.strip() for word in text.split(",")]
    values: list[str] = []
    for at, word in enumerate(words):
        if word in _STEP:
            values += _continued(name, text, words, at)
        elif integer and ".." in word:
            values += _range(name, word)
        elif word:
            values.append(word)
    if not values:
        raise UserError(Problem(where=name, key="", message=f"{text!r} names no value"))
    return tuple(dict.fromkeys(values))


def _numbers(name: str, words: Sequence[str]) -> list[int]:
    numbers = [BY_FLAG[name].read(word) for word in words]
    problems = [number for number in numbers if isinstance(number, Problem)]
    if problems:
        raise UserError(*problems)
    return numbers


def _range(name: str, word: str) -> list[str]:
    bounds = _numbers(name, word.split(".."))
    if len(bounds) not in (2, 3) or bounds[0] > bounds[1] or (len(bounds) == 3 and bounds[2] < 1):
        message = f"{word!r} is not a range"
        raise UserError(Problem(where=name, key="", message=message, hint="such as 1..16 or 128..1024..128"))
    step = bounds[2] if len(bounds) == 3 else 1
    _bounded(name, (bounds[1] - bounds[0]) // step)
    return [str(number) for number in range(bounds[0], bounds[1] + 1, step)]


def _continued(name: str, text: str, words: Sequence[str], at: int) -> Iterator[str]:
    """What "…" stands for in "8,16,…,1024"."""
    hint = "such as 8,16,…,1024 (doubling) or 4,8,12,…,64 (in equal steps)"
    if name not in BY_FLAG or BY_FLAG[name].values != "integer" or at < 2 or at + 1 >= len(words):
        message = f"{text!r}: '…' needs two whole numbers before it and one after it"
        raise UserError(Problem(where=name, key="", message=message, hint=hint))
    before = _numbers(name, [w for w in words[:at] if w not in _STEP])
    (last,) = _numbers(name, words[at + 1 : at + 2])
    first, second = before[-2], before[-1]
    doubling = second == 2 * first and (len(before) < 3 or first == 2 * before[-3])
    if second <= first:
        raise UserError(Problem(where=name, key="", message=f"{text!r}: {second} is not above {first}", hint=hint))
    _bounded(name, 0 if doubling else (last - second) // (second - first))
    number = second
    while (number := number * 2 if doubling else number + second - first) < last:
        yield str(number)


def _bounded(name: str, count: int) -> None:
    if count > MOST:
        raise UserError(Problem(where=name, key="", message=f"{count:,} values are more than {MOST:,}"))
