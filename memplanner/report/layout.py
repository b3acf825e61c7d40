"""The layout that text and screen share: lines of styled spans, and what they are put together from.

Nothing here knows how a line will be shown. `terminal` writes lines as text with or without ANSI colours; the terminal
interface paints the same lines. Written by hand because importing rich costs as much as the whole of the rest of
`memplanner check` after pydantic; and text without a markup language cannot be tricked by a name that contains markup.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from memplanner.errors import printable
from memplanner.frozen import Frozen


class Span(NamedTuple):
    """Text in one style, printable already. A tuple: a picture is made of hundreds of them at every key press.

    colour: such as "#0072B2"; "" for the page's own. plain: what stands there instead where there are no colours; as
    wide as the text.
    """

    text: str
    colour: str = ""
    bold: bool = False
    dim: bool = False
    reverse: bool = False
    plain: str = ""


Line: TypeAlias = tuple[Span, ...]
BLANK: Line = ()


def text_of(line: Line) -> str:
    """What a line says."""
    return "".join(span.text for span in line)


def line_width(line: Line) -> int:
    """Terminal columns that a line takes."""
    return sum(text_width(span.text) for span in line)


def text_width(text: str) -> int:
    """Terminal columns that printable text takes: two for wide characters, none for combining ones."""
    if text.isascii() or max(text) < "\u0300":  # where the combining ones begin; nothing is wide before that
        return len(text)
    return sum(map(_columns, text))


@lru_cache(maxsize=1 << 12)
def _columns(character: str) -> int:
    if "\u2500" <= character <= "\u259f":  # lines and blocks, of which pictures are made
        return 1
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
    most = 4 * max(width, 1)  # characters of a word that are looked at together: one may take no column at all
    for word in printable(" ".join(text.split())).split(" "):
        at = 0
        while True:
            glue, part = "" if empty else " ", word[at : at + most]
            room = width - text_width(line) - len(glue)
            if not part or (at + most >= len(word) and text_width(part) <= room):
                line, empty = line + glue + part, False
                break
            if not empty:
                lines.append(line)
                line, empty = rest, True
                continue
            ends = accumulate(map(_columns, part))
            cut = max(next((n for n, end in enumerate(ends) if end > room), len(part)), 1)
            lines.append(line + part[:cut])
            line, at = rest, at + cut
    return [*lines, line]


def paragraph(
    text: str, width: int, *, first: str = "", rest: str = "", colour: str = "", bold: bool = False
) -> list[Line]:
    """The same in one style."""
    return [(Span(line, colour, bold),) for line in wrap(text, width, first=first, rest=rest)]


def bullets(texts: Iterable[str], width: int) -> list[Line]:
    """A list of paragraphs."""
    return [line for text in texts for line in paragraph(text, width, first="  - ", rest="    ")]


def heading(text: str) -> list[Line]:
    """A blank line and a bold line."""
    return [BLANK, (Span(printable(text), bold=True),)]


def section(title: str, texts: Sequence[str], width: int) -> list[Line]:
    """A heading and a list under it; nothing where the list is empty."""
    return [*heading(title), *bullets(texts, width)] if texts else []


class Column(Frozen):
    """A table's column. `shrinks`: gives way, with an ellipsis, where the page is too narrow."""

    title: str = ""
    right: bool = False
    shrinks: bool = False


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Span]], width: int, *, indent: int = 2
) -> list[Line]:
    """Aligned lines, two spaces between columns, no rules; a line of titles when any column has one. Cells are made
    printable.
    """
    cells = [[cell if isinstance(cell, Span) else Span(cell) for cell in row] for row in rows]
    cells = [[cell._replace(text=printable(cell.text)) for cell in row] for row in cells]
    titles = [Span(column.title, bold=True) for column in columns]
    lines = [titles, *cells] if any(column.title for column in columns) else cells
    widths = [max((text_width(line[i].text) for line in lines), default=0) for i in range(len(columns))]
    spare = width - indent - sum(widths) - 2 * (len(columns) - 1)
    for i, column in enumerate(columns):
        if column.shrinks and spare < 0:
            cut = min(-spare, max(widths[i] - 8, 0))
            widths[i] -= cut
            spare += cut
    out = []
    for line in lines:
        spans = [Span(" " * indent)]
        for i, (cell, size, column) in enumerate(zip(line, widths, columns, strict=True)):
            text = pad(cell.text, size, right=column.right)
            spans += [Span("  "), cell._replace(text=text)] if i else [cell._replace(text=text)]
        out.append(tuple(spans))
    return out


def table_that_fits(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Span]], width: int, *, least: int
) -> list[Line]:
    """A table of as many of the columns, from the left, as there is room for; of `least` of them in any case."""
    shown = len(columns)
    while shown > least:
        unbounded = table(columns[:shown], [row[:shown] for row in rows], 10_000)
        if max(text_width(text_of(line).rstrip()) for line in unbounded) <= width:
            break
        shown -= 1
    return table(columns[:shown], [row[:shown] for row in rows], width)


def stacked_bar(parts: Sequence[tuple[int, str, str]], width: int, *, whole: int = 0) -> Line:
    """One bar, each part rounded so that the sum is exact: `width` columns for all parts, or for `whole` where that is
    given. parts: (size, glyph without colours, colour).
    """
    total = whole or sum(size for size, _, _ in parts) or 1
    bar, done, drawn = [], 0, 0
    for size, glyph, colour in parts:
        done += size
        end = round(done * width / total)
        if end > drawn:
            bar.append(Span("█" * (end - drawn), colour, plain=glyph * (end - drawn)))
            drawn = end
    return tuple(bar)
