"""Errors meant for the user: one line each, naming the place, the key, the value and what to type instead."""

from collections.abc import Iterable
from typing import Final

from memplanner.frozen import Frozen

MOST_CHARACTERS: Final = 600
"""Of each part of a problem, as it is printed: what was typed, or is in a file, may be of any length."""
_LONGEST_NAME: Final = 200
"""Of a name, as it is compared with those that there are."""


class Problem(Frozen):
    """One thing wrong with what the user asked.

    where: the file, flag or environment the value came from.
    key: dotted name of the setting, or "" when the whole file is at fault.
    message: what is wrong, with the value in it.
    hint: the nearest right answer, or "".
    """

    where: str
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = shorten(f"{self.where}: {self.key}" if self.key else self.where)
        return printable(f"{place}: {shorten(self.message)}{f' ({shorten(self.hint)})' if self.hint else ''}")


class UserError(Exception):
    """A usage error (exit code 2): what the user asked is wrong. Carries every problem, not only the first."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class UnsupportedError(UserError):
    """The plan combines what no library does, so that nobody can run it."""


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text, or its beginning and its end where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def printable(text: str) -> str:
    """The text on one line with control characters shown as escapes, so that a crafted name cannot drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def misspelling(name: str, known: Iterable[str]) -> str:
    """A hint such as "did you mean 'llama'?" where one of the known names differs by a slip of the keys alone, and in
    no digit: for names such as those of model types, where the next best is another thing.
    """
    import difflib  # for an error only

    digits = [c for c in name if c.isdigit()]
    alike = [each for each in known if [c for c in each if c.isdigit()] == digits]
    matches = difflib.get_close_matches(name.lower(), alike, n=1, cutoff=0.85)
    return f"did you mean {matches[0]!r}?" if matches else ""


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """A hint such as "did you mean 'rtx4090'?", or "" when nothing known is close to `name`."""
    import difflib  # for an error only

    matches = difflib.get_close_matches(name[:_LONGEST_NAME].lower(), list(known), n=limit, cutoff=0.5)
    return f"did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""
