"""Pictures of finished estimates as styled text: bars, charts, the step's course. Nothing here predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter

from rich.style import Style
from rich.text import Text

from memplanner.errors import printable
from memplanner.prediction import Estimate
from memplanner.report.palette import (
    ACCENT,
    CATEGORY_COLOURS,
    CATEGORY_GLYPHS,
    MUTED,
    ON_LIGHT,
    VERDICT_COLOURS,
)
from memplanner.report.phrases import PHASE_WORDS, VERDICT_WORDS, share
from memplanner.report.terminal import fit, pad, wrap
from memplanner.timeline import CATEGORIES, Category, Phase, TensorRow, Verdict
from memplanner.units import format_bytes

_EIGHTHS = " ▁▂▃▄▅▆▇█"
LINE = "╌"
_PARTS = (("allocated", "█", ACCENT), ("fragmentation", "▒", "#E69F00"), ("context", "░", "#CC79A7"))


@cache
def _style(colour: str | None, bold: bool) -> Style:
    return Style(color=colour, bold=bold)


@dataclass(frozen=True, slots=True)
class Ink:
    """How things are drawn: with colours or with glyphs that do without; on a dark page or a light one."""

    colour: bool = True
    dark: bool = True

    def style(self, colour: str, *, bold: bool = False) -> Style:
        """A colour of the palette on this page."""
        return _style(None if not self.colour else colour if self.dark else ON_LIGHT.get(colour, colour), bold)

    def fill(self, category: Category) -> tuple[str, Style]:
        """The glyph and style that stand for a category."""
        return ("█" if self.colour else CATEGORY_GLYPHS[category]), self.style(CATEGORY_COLOURS[category])


def verdict(estimate: Estimate, width: int, ink: Ink) -> Text:
    """Two lines: the verdict with what is needed of what there is, and what is left."""
    colour = VERDICT_COLOURS[estimate.verdict]
    first = f"{VERDICT_WORDS[estimate.verdict]}: {format_bytes(estimate.device_bytes)} of "
    first += format_bytes(estimate.limit_bytes)
    left = format_bytes(abs(estimate.margin_bytes))
    if estimate.margin_bytes < 0:
        second = f"{left} too much, {share(-estimate.margin_bytes, estimate.limit_bytes)} over"
    else:
        second = f"{left} to spare, {share(estimate.margin_bytes, estimate.limit_bytes)}"
        if estimate.verdict == "tight":
            second += f" (±{format_bytes(estimate.error_margin_bytes)})"
    text = Text(fit(first, width), style=ink.style(colour, bold=True))
    return text.append("\n").append(fit(second, width), ink.style(colour))


def device_bar(estimate: Estimate, width: int, ink: Ink) -> Text:
    """The card as one bar (allocated, fragmentation, context, free), the limit marked, and its legend."""
    sizes = (estimate.allocated_bytes, estimate.fragmentation_bytes, estimate.context_bytes)
    whole = max(estimate.limit_bytes, estimate.device_bytes, 1)
    bar, done, drawn = Text(), 0, 0
    for size, (_, glyph, colour) in zip(sizes, _PARTS, strict=True):
        done += size
        end = round(done * width / whole)
        bar.append((glyph if not ink.colour else "█") * (end - drawn), ink.style(colour))
        drawn = end
    bar.append("·" * (width - drawn), ink.style(MUTED))
    limit = round(estimate.limit_bytes * width / whole)
    if limit < width:
        bar = bar[: max(limit - 1, 0)] + Text("┃", ink.style(VERDICT_COLOURS["does-not-fit"], bold=True)) + bar[limit:]
    items = [
        ("█" if ink.colour else glyph, colour, fit(f"{name} {format_bytes(size, decimals=1)}", width - 2))
        for size, (name, glyph, colour) in zip(sizes, _PARTS, strict=True)
    ]
    items.append(("·", MUTED, f"free {format_bytes(max(estimate.margin_bytes, 0), decimals=1)}"))
    lines = [bar, Text()]
    for glyph, colour, words in items:
        if lines[-1].cell_len and lines[-1].cell_len + 4 + len(words) > width:
            lines.append(Text())
        lines[-1].append("  " if lines[-1].cell_len else "").append(f"{glyph} ", ink.style(colour)).append(words)
    return Text("\n").join(lines)


def breakdown(estimate: Estimate, width: int, ink: Ink, *, rows: int = len(CATEGORIES)) -> Text:
    """What is alive at the peak, by category, largest first; what there is no room for is summed up."""
    alive = f"{format_bytes(estimate.allocated_bytes)} alive"
    title = f"Peak in {PHASE_WORDS[estimate.peak_phase]}: {alive}"
    if len(title) > width:
        title = f"Peak in {estimate.peak_phase}: {alive}"
    return categories(estimate.at_peak, width, ink, title=title, rows=rows)


def categories(sizes: Mapping[Category, int], width: int, ink: Ink, *, title: str, rows: int) -> Text:
    """A line per category: a bar, its bytes, its share."""
    present = sorted(((c, sizes[c]) for c in CATEGORIES if sizes.get(c)), key=lambda item: -item[1])
    shown = present if len(present) <= rows else present[: max(rows - 1, 0)]
    total = sum(sizes.values())
    most = present[0][1] if present else 1
    room = max(width - 17 - 11 - 7, 0)
    lines = [Text(fit(title, width), style="bold")]
    for category, size in shown:
        glyph, style = ink.fill(category)
        line = Text().append(f"{glyph} ", style).append(pad(category.replace("_", " "), 16))
        line.append(pad(format_bytes(size), 10, right=True)).append(pad(share(size, total), 7, right=True))
        if room > 4:
            line.append(" ").append(glyph * max(round(size * (room - 2) / most), 0), style)
        lines.append(line)
    if len(shown) < len(present):
        rest = sum(size for _, size in present[len(shown) :])
        line = Text("  ").append(pad(f"{len(present) - len(shown)} others", 16))
        lines.append(line.append(pad(format_bytes(rest), 10, right=True)))
    return Text("\n").join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A column of the chart: its name, bytes (None: not known yet) and verdict."""

    name: str
    size: int | None
    verdict: Verdict = "fits"


def bar_chart(
    title: str, bars: Sequence[Bar], limit: int, current: str, width: int, height: int, ink: Ink
) -> list[Text]:
    """Device memory over a setting: a column per value, the card's line, the present value marked."""
    height = max(height - 3, 1)
    axis = 6
    each = max((width - axis) // max(len(bars), 1), 2)
    known = [bar.size for bar in bars if bar.size is not None]
    top = max([limit, *known, 1])
    line_at = min(int(limit / top * height * 0.999), height - 1)
    lines = [Text(fit(title, width), style="bold")]
    for row in reversed(range(height)):
        label = ""
        if row == line_at:
            label = _gib(limit)
        elif row == 0:
            label = "0"
        cells = [(pad(label, axis - 1, right=True) + " ", ink.style(MUTED))]
        for bar in bars:
            eighths = 0 if bar.size is None else min(max(round(bar.size / top * height * 8) - row * 8, 0), 8)
            style = Style.null()
            if eighths or row == line_at:
                colour = VERDICT_COLOURS[bar.verdict if eighths else "does-not-fit"]
                style = ink.style(colour, bold=bar.name == current)
            glyph = _EIGHTHS[eighths] if eighths else LINE if row == line_at else " "
            cells.append((glyph * (each - 1), style))
            cells.append((LINE, ink.style(MUTED)) if row == line_at else (" ", style))
        lines.append(_merged(cells))
    names = Text(" " * axis)
    for bar in bars:
        name = bar.name if len(bar.name) < each else _short(bar.name)
        names.append(pad(name, each - 1), "bold reverse" if bar.name == current else "").append(" ")
    return [*lines, names[:width]]


def _merged(cells: Sequence[tuple[str, Style]]) -> Text:
    """A line of styled cells, neighbours of one style together: each style change takes Textual as long as the next."""
    line = Text()
    for style, alike in groupby(cells, key=itemgetter(1)):
        line.append("".join(glyphs for glyphs, _ in alike), style)
    return line


def _short(number: str) -> str:
    """1024 as "1k"."""
    return f"{int(number) // 1024}k" if int(number) % 1024 == 0 else number


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f}G"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A stretch of the step: its phase and bytes by category at its highest moment."""

    phase: Phase
    size: int
    by_category: Mapping[Category, int]


def course(
    columns: Sequence[Column], room: int, cursor: int, width: int, height: int, ink: Ink, *, base: int = 0
) -> list[Text]:
    """The step from left to right, stacked by category; the card's room for tensors, the peak and the cursor marked.

    base: bytes that the columns leave out, below the picture.
    """
    axis = 8
    peak = max((column.size for column in columns), default=0)
    near = 0 < room <= base + 1.6 * (peak - base)
    top = max(peak - base, room - base if near else 0, 1)
    legend = _legend(columns, width - axis, ink)
    body = max(height - 3 - len(legend), 1)
    line_at = min(int((room - base) / top * body * 0.999), body - 1) if near else -1
    order = [c for c in CATEGORIES if any(column.by_category.get(c) for column in columns)]
    stacks: list[list[Category]] = []
    for column in columns:
        stack: list[Category] = []
        done = 0
        for category in order:
            done += column.by_category.get(category, 0)
            stack += [category] * (round(done / top * body) - len(stack))
        stacks.append(stack)
    limit = ink.style(VERDICT_COLOURS["does-not-fit"])
    lines = []
    for row in reversed(range(body)):
        label = _gib(room) if row == line_at else _gib(base + top) if row == body - 1 else ""
        if row == 0:
            label = _gib(base) if base else "0"
        cells = [(pad(label, axis - 1, right=True) + " ", ink.style(MUTED))]
        for i, stack in enumerate(stacks):
            if i == cursor:
                cells.append(
                    ("▓", ink.fill(stack[row])[1] + Style(dim=True)) if row < len(stack) else ("│", ink.style(MUTED))
                )
            else:
                cells.append(ink.fill(stack[row]) if row < len(stack) else (LINE if row == line_at else " ", limit))
        lines.append(_merged(cells))
    at = next((i for i, column in enumerate(columns) if column.size == peak), 0)
    marks = list(" " * len(columns))
    if columns:
        marks[at], marks[min(cursor, len(columns) - 1)] = "▲", "│" if cursor != at else "▲"
    note = f" peak {format_bytes(peak)}"
    if at + len(note) < len(columns):
        for i, letter in enumerate(note, at + 1):
            marks[i] = letter if marks[i] == " " else marks[i]
    lines.append(Text(" " * axis + "".join(marks)))
    lines.append(Text(" " * axis + phase_axis([column.phase for column in columns]), ink.style(MUTED)))
    return [*lines, *(Text(" " * axis) + line for line in legend)]


def _legend(columns: Sequence[Column], width: int, ink: Ink) -> list[Text]:
    """The categories that are drawn."""
    lines = [Text()]
    for category in CATEGORIES:
        if not any(column.by_category.get(category) for column in columns):
            continue
        glyph, style = ink.fill(category)
        name = category.replace("_", " ")
        if lines[-1].cell_len and lines[-1].cell_len + 4 + len(name) > width:
            lines.append(Text())
        lines[-1].append("  " if lines[-1].cell_len else "").append(f"{glyph} ", style).append(name)
    return lines


def phase_axis(phases: Sequence[Phase]) -> str:
    """The phases' names, each where it begins."""
    axis, start = "", 0
    for i in range(1, len(phases) + 1):
        if i == len(phases) or phases[i] != phases[start]:
            axis += pad("│" + phases[start], i - start)
            start = i
    return axis


def tensors(rows: Sequence[TensorRow], width: int, ink: Ink, *, most: int = 60) -> list[Text]:
    """Rows of the ledger, each with its why under it."""
    total = sum(row.bytes for row in rows)
    lines = []
    for row in rows[:most]:
        glyph, style = ink.fill(row.category)
        shape = " × ".join(map(str, row.shape)) or "scalar"
        count = f"{row.count} × " if row.count > 1 else ""
        head = f"{printable(row.name)}: {count}({shape}) {row.dtype}"
        line = Text(pad(format_bytes(row.bytes), 10, right=True)).append(pad(share(row.bytes, total), 7, right=True))
        line.append(f" {glyph} ", style).append(fit(head, max(width - 20, 8)), "bold")
        lines.append(line)
        lines += [Text(" " * 20 + why, ink.style(MUTED)) for why in wrap(row.why, max(width - 20, 20))]
    if len(rows) > most:
        lines.append(Text(f"{len(rows) - most} smaller ones more"))
    return lines
