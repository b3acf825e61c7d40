"""Regular expressions from files that nobody vouches for, matched against the paths of modules.

Python's own matcher tries one way through an expression after the other, and a hostile one has more ways than anybody
can wait for. Here an expression is only parsed by Python. It is matched by following all ways at once, as the set of
places in the path that they have come to, which is never larger than the path is long; and the work on all of a plan's
patterns together is limited, so that the longest ones end as well. What such sets cannot follow (back-references, and
groups that never give back) and flags, which no module's path needs, are refused.
"""

import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any, Final

LONGEST: Final = 1000
"""Characters of a pattern; those that tools write themselves have up to some 400."""
MOST_PATTERNS: Final = 256
"""Keys of one rank_pattern that are more than names; tools write thousands of names at most."""
DEEPEST: Final = 20
"""Groups inside each other."""
MOST_WORK: Final = 10_000_000
"""Places that may be looked at for one plan, which takes a few seconds. A long pattern on the 126 blocks of Llama 3.1
405B takes a tenth of that."""

_NAME = re.compile(r"[\w.-]+", re.ASCII)
_WORD: Final = re.compile(r"\w")
_CATEGORIES: Final[dict[Any, Callable[[str], bool]]] = {
    _constants.CATEGORY_DIGIT: str.isdecimal,
    _constants.CATEGORY_NOT_DIGIT: lambda char: not char.isdecimal(),
    _constants.CATEGORY_SPACE: str.isspace,
    _constants.CATEGORY_NOT_SPACE: lambda char: not char.isspace(),
    _constants.CATEGORY_WORD: lambda char: _WORD.match(char) is not None,
    _constants.CATEGORY_NOT_WORD: lambda char: _WORD.match(char) is None,
}
_REPEATS: Final = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
_ASSERTIONS: Final = (_constants.ASSERT, _constants.ASSERT_NOT)
_SINGLE: Final = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)


class TooMuchWorkError(Exception):
    """A plan's patterns take longer to match than anybody would wait."""


class Work:
    """What may still be done for the patterns of one plan."""

    def __init__(self) -> None:
        self.left = MOST_WORK

    def spend(self, amount: int) -> None:
        """TooMuchWorkError where there is less left than that."""
        self.left -= amount
        if self.left < 0:
            raise TooMuchWorkError


def is_name(text: str) -> bool:
    """Whether a text has nothing of a pattern but, perhaps, dots."""
    return _NAME.fullmatch(text) is not None


def matches_whole(pattern: str, path: str, work: Work) -> bool:
    """Whether the pattern matches the path from its beginning to its end (re.fullmatch)."""
    return len(path) in _Match(path, work).ends(_parsed(pattern), {0})


def matches_end(pattern: str, path: str, work: Work) -> bool:
    """Whether the pattern matches the path, or what follows one of its dots, to its end, as peft matches the keys of
    rank_pattern. Keys are mostly names, and there may be thousands: in those only a dot stands for other characters.
    """
    if not is_name(pattern):
        return len(path) in _Match(path, work).ends(_parsed(_from_a_dot(pattern)), {0})
    start = len(path) - len(pattern)
    if start < 0 or (start > 0 and path[start - 1] != "."):
        return False
    return all(wanted in (".", char) for wanted, char in zip(pattern, path[start:], strict=True))


class EndNames:
    """Keys that are names, found by the ends of paths as matches_end finds each of them.

    There may be thousands of keys and of paths, and so a key is looked up: by its length, the places of its dots, which
    stand for any character, and what is between them. Mostly all keys of a length have their dots in the same places.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._by_length: dict[int, dict[tuple[int, ...], dict[str, str]]] = {}
        for pattern in filter(is_name, patterns):
            dots = tuple(place for place, char in enumerate(pattern) if char == ".")
            shapes = self._by_length.setdefault(len(pattern), {})
            shapes.setdefault(dots, {})[pattern.replace(".", "")] = pattern

    def of(self, path: str, work: Work) -> Iterator[str]:
        """The keys that match the path, or what follows one of its dots, to its end."""
        start = 0
        while True:
            shapes = self._by_length.get(len(path) - start, {})
            work.spend(1 + len(shapes))
            for dots, names in shapes.items():
                edges = (start - 1, *(start + dot for dot in dots), len(path))
                between = "".join(path[left + 1 : right] for left, right in pairwise(edges))
                if between in names:
                    yield names[between]
            start = path.find(".", start) + 1
            if not start:
                return


def check_pattern(pattern: str) -> None:
    """ValueError, with the reason, if the pattern is none that can be matched here."""
    _parsed(pattern)


def check_end_pattern(pattern: str) -> None:
    """The same of a pattern for the ends of paths."""
    _parsed(pattern)  # the first to complain, so that a place in it is one in what was written
    _parsed(_from_a_dot(pattern))


def _from_a_dot(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


@functools.lru_cache(maxsize=2 * MOST_PATTERNS)
def _parsed(pattern: str) -> Any:
    if len(pattern) > LONGEST:
        raise ValueError(f"a pattern of {len(pattern)} characters is longer than {LONGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on spellings that a later Python may read otherwise
            parsed = _parser.parse(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    except RecursionError:
        raise ValueError(f"has more than {DEEPEST} groups inside each other") from None
    if parsed.state.flags & ~re.UNICODE:
        raise ValueError("has flags, which are not read in a pattern for modules")
    _check(parsed, 0)
    return parsed


def _check(items: Iterable[Any], depth: int) -> None:
    """ValueError if there is anything that sets of places cannot follow."""
    if depth > DEEPEST:
        raise ValueError(f"has more than {DEEPEST} groups inside each other")
    for op, argument in items:
        if op in _REPEATS:
            _check(argument[2], depth + 1)
        elif op is _constants.BRANCH:
            for branch in argument[1]:
                _check(branch, depth + 1)
        elif op is _constants.SUBPATTERN and not (argument[1] or argument[2]):
            _check(argument[3], depth + 1)
        elif op in _ASSERTIONS:
            _check(argument[1], depth + 1)
        elif op not in (*_SINGLE, _constants.AT, _constants.FAILURE):
            raise ValueError(f"has {str(op).lower().replace('_', ' ')}, which is not read in a pattern for modules")


class _Match:
    """A path on which patterns are followed."""

    def __init__(self, path: str, work: Work) -> None:
        self.path, self.work = path, work

    def ends(self, items: Iterable[Any], places: set[int]) -> set[int]:
        """Where the items, one after the other, can end if they begin at one of the places."""
        for op, argument in items:
            if not places:
                break
            self.work.spend(4 + len(places))
            places = self._ends_of(op, argument, places)
        return places

    def _ends_of(self, op: Any, argument: Any, places: set[int]) -> set[int]:
        path = self.path
        if op in _SINGLE:
            return {p + 1 for p in places if p < len(path) and _takes(op, argument, path[p])}
        if op in _REPEATS:
            least, most, repeated = argument
            return self._repeated(least, most, repeated, places)
        if op is _constants.BRANCH:
            return set().union(*(self.ends(branch, places) for branch in argument[1]))
        if op is _constants.SUBPATTERN:
            return self.ends(argument[3], places)
        if op is _constants.AT:
            return {p for p in places if self._is_at(argument, p)}
        if op is _constants.FAILURE:
            return set()
        direction, items = argument
        back = items.getwidth()[0] if direction < 0 else 0  # looking behind is of one width
        wanted = op is _constants.ASSERT
        return {p for p in places if self._is_seen(items, p, back, behind=direction < 0) == wanted}

    def _repeated(self, least: int, most: int, items: Iterable[Any], places: set[int]) -> set[int]:
        for _ in range(least):
            after = self.ends(items, places)
            if after == places:
                break
            places = after
        reached, new = set(places), places
        for _ in range(most - least):
            new = self.ends(items, new) - reached
            if not new:
                break
            reached |= new
        return reached

    def _is_at(self, where: Any, place: int) -> bool:
        if where in (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING):
            return place == 0
        if where in (_constants.AT_END, _constants.AT_END_STRING):
            return place == len(self.path)
        before, after = self.path[max(0, place - 1) : place], self.path[place : place + 1]
        between = (_WORD.match(before) is None) != (_WORD.match(after) is None)
        return bool(between == (where is _constants.AT_BOUNDARY))

    def _is_seen(self, items: Iterable[Any], place: int, back: int, *, behind: bool) -> bool:
        if not behind:
            return bool(self.ends(items, {place}))
        return place >= back and place in self.ends(items, {place - back})


def _takes(op: Any, argument: Any, char: str) -> bool:
    """Whether an item for a single character takes this one."""
    if op is _constants.ANY:
        return char != "\n"
    if op is not _constants.IN:
        return bool((ord(char) == argument) == (op is _constants.LITERAL))
    negated = argument[0][0] is _constants.NEGATE
    return bool(negated != any(_is_in(kind, value, char) for kind, value in argument[negated:]))


def _is_in(kind: Any, value: Any, char: str) -> bool:
    if kind is _constants.LITERAL:
        return bool(ord(char) == value)
    if kind is _constants.RANGE:
        return bool(value[0] <= ord(char) <= value[1])
    return bool(_CATEGORIES[value](char))
