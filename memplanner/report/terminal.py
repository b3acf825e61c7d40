"""A page of plain text for a terminal or a pipe: widths, colours, wrapped paragraphs, tables, stacked bars.

Written by hand because importing rich costs as much as the whole of the rest of `memplanner check` after pydantic;
and text without a markup language cannot be tricked by a name that contains markup.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal, TextIO

from memplanner.errors import printable

Depth = Literal["none", "256", "truecolor"]
MIN_WIDTH, MAX_WIDTH = 60, 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """How wide lines may be and how colours are written."""

    width: int = 80
    depth: Depth = "none"

    def paint(self, text: str, colour: str = "", *, bold: bool = False) -> str:
        """`text` (already padded and printable) in a colour such as "#0072B2"."""
        codes = ["1"] if bold else []
        if colour:
            red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            if self.depth == "256":
                codes.append(f"38;5;{16 + 36 * _sixth(red) + 6 * _sixth(green) + _sixth(blue)}")
            else:
                codes.append(f"38;2;{red};{green};{blue}")
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes and self.depth != "none" else text


def page_for(stream: TextIO, env: Mapping[str, str] = os.environ) -> Page:
    """The page that suits a stream: a terminal's width, 80 when piped; colour on a terminal unless NO_COLOR is set."""
    terminal = stream.isatty()
    width = int(env["COLUMNS"]) if env.get("COLUMNS", "").isascii() and env.get("COLUMNS", "").isdigit() else 0
    if not width and terminal:
        try:
            width = os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            width = 0
    depth: Depth = "none"
    if not env.get("NO_COLOR") and (env.get("FORCE_COLOR") or (terminal and env.get("TERM") != "dumb")):
        depth = "truecolor" if env.get("COLORTERM") in ("truecolor", "24bit") else "256"
    return Page(width=min(max(width or 80, MIN_WIDTH), MAX_WIDTH), depth=depth)


def _sixth(level: int) -> int:
    """The nearest step of the 6×6×6 colour cube (0, 95, 135, 175, 215, 255)."""
    return min(range(6), key=lambda step: abs((0, 95, 135, 175, 215, 255)[step] - level))


def text_width(text: str) -> int:
    """Terminal columns that printable text takes: two for wide characters, none for combining ones."""
    if text.isascii() or max(text) < "\u0300":  # where the combining ones begin; nothing is wide before that
        return len(text)
    return sum(map(_columns, text))


@lru_cache(maxsize=1 << 12)
def _columns(character: str) -> int:
    import unicodedata

    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """`text` cut to at most `width` columns, with an ellipsis where something is missing."""
    if text_width(text) <= width:
        return text
    fitting = (n for n, end in enumerate(accumulate(map(_columns, text))) if end > width - 1)
    return f"{text[: next(fitting, 0)]}…"[: max(width, 0)]


def pad(text: str, width: int, *, right: bool = False) -> str:
    """`text` cut or padded to exactly `width` columns."""
    text = fit(text, width)
    space = " " * (width - text_width(text))
    return space + text if right else text + space


def wrap(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """A paragraph of untrusted text as lines of at most `width` columns; words longer than a line are cut through."""
    lines, line, empty = [], first, True
    for word in printable(" ".join(text.split())).split(" "):
        while True:
            glue = "" if empty else " "
            if text_width(line) + len(glue) + text_width(word) <= width:
                line, empty = line + glue + word, False
                break
            if not empty:
                lines.append(line)
                line, empty = rest, True
                continue
            cut = max(next((n for n in range(len(word), 0, -1) if text_width(line + word[:n]) <= width), 1), 1)
            lines.append(line + word[:cut])
            line, word = rest, word[cut:]
    return [*lines, line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A table's cell: its text, made printable, and the colour it is painted in."""

    text: str
    colour: str = ""
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A table's column. `shrinks`: gives way, with an ellipsis, where the page is too narrow."""

    title: str = ""
    right: bool = False
    shrinks: bool = False


def table(page: Page, columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, indent: int = 2) -> list[str]:
    """Aligned lines, two spaces between columns, no rules; a line of titles when any column has one."""
    cells = [[cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row] for row in rows]
    cells = [[Cell(text=printable(c.text), colour=c.colour, bold=c.bold) for c in row] for row in cells]
    titles = [Cell(text=column.title, colour="", bold=True) for column in columns]
    lines = [titles, *cells] if any(column.title for column in columns) else cells
    widths = [max((text_width(line[i].text) for line in lines), default=0) for i in range(len(columns))]
    spare = page.width - indent - sum(widths) - 2 * (len(columns) - 1)
    for i, column in enumerate(columns):
        if column.shrinks and spare < 0:
            given = min(-spare, max(widths[i] - 8, 0))
            widths[i] -= given
            spare += given
    out = []
    for line in lines:
        padded = [pad(c.text, width, right=col.right) for c, width, col in zip(line, widths, columns, strict=True)]
        padded[-1] = padded[-1].rstrip()
        parts = [page.paint(text, c.colour, bold=c.bold) if text else "" for c, text in zip(line, padded, strict=True)]
        out.append((" " * indent + "  ".join(parts)).rstrip())
    return out


def stacked_bar(page: Page, parts: Sequence[tuple[int, str, str]], width: int) -> str:
    """One bar of `width` columns; parts are (size, glyph, colour), each rounded so that the sum is exact."""
    total = sum(size for size, _, _ in parts) or 1
    bar, done, drawn = "", 0, 0
    for size, glyph, colour in parts:
        done += size
        end = round(done * width / total)
        if end > drawn:
            bar += page.paint((glyph if page.depth == "none" else "█") * (end - drawn), colour)
            drawn = end
    return bar


def heading(page: Page, text: str) -> list[str]:
    """A blank line and a bold line."""
    return ["", page.paint(printable(text), bold=True)]
