"""Pictures of finished estimates as lines: bars, charts, the step from left to right, rows of the ledger.

Text and screen draw the same ones, so that they cannot disagree. Nothing here predicts.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from memplanner.errors import printable
from memplanner.frozen import Frozen
from memplanner.report.layout import (
    BLANK,
    Line,
    Span,
    fit,
    line_width,
    pad,
    paragraph,
    stacked_bar,
    wrap,
)
from memplanner.report.palette import ACCENT, CATEGORY_COLOURS, MUTED, VERDICT_COLOURS
from memplanner.report.phrases import PHASE_WORDS, largest_first, need_words, share, spare_words
from memplanner.report.summary import fill
from memplanner.timeline import CATEGORIES, Category, Phase, TensorRow, Verdict
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate
    from memplanner.program.liveness import Moment

AXIS = 8
"""Columns left of a step's picture."""
RULE = "╌"
"""What a limit is drawn with."""
_LIMIT = VERDICT_COLOURS["does-not-fit"]
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_PARTS = (("allocated", "█", ACCENT), ("fragmentation", "▒", "#E69F00"), ("context", "░", "#CC79A7"))


def short_verdict(estimate: "Estimate", width: int) -> list[Line]:
    """Two lines: the verdict with what is needed of what there is, and what is left."""
    colour = VERDICT_COLOURS[estimate.verdict]
    need, spare = need_words(estimate), spare_words(estimate, shares=True)
    return [(Span(fit(need, width), colour, bold=True),), (Span(fit(spare, width), colour),)]


def device_bar(estimate: "Estimate", width: int) -> list[Line]:
    """The card as one bar (allocated, fragmentation, context, free), the limit marked, and its legend."""
    sizes = (estimate.allocated_bytes, estimate.fragmentation_bytes, estimate.context_bytes)
    whole = max(estimate.limit_bytes, estimate.device_bytes, 1)
    parts = [(size, glyph, colour) for size, (_, glyph, colour) in zip(sizes, _PARTS, strict=True)]
    bar = stacked_bar(parts, width, whole=whole)
    bar = (*bar, Span("·" * (width - line_width(bar)), MUTED))
    limit = round(estimate.limit_bytes * width / whole)
    if limit < width:
        bar = (*_cut(bar, 0, max(limit - 1, 0)), Span("┃", _LIMIT, bold=True), *_cut(bar, limit, width))
    items = [
        (Span("█", colour, plain=glyph), fit(f"{name} {format_bytes(size, decimals=1)}", width - 2))
        for size, (name, glyph, colour) in zip(sizes, _PARTS, strict=True)
    ]
    items.append((Span("·", MUTED), f"free {format_bytes(max(estimate.margin_bytes, 0), decimals=1)}"))
    return [bar, *_flow(items, width)]


def _cut(line: Line, start: int, end: int) -> Line:
    """The line's characters from `start` to `end`; all of its spans are of narrow ones."""
    spans, at = [], 0
    for span in line:
        part = slice(max(start - at, 0), max(end - at, 0))
        spans.append(span._replace(text=span.text[part], plain=span.plain[part]))
        at += len(span.text)
    return tuple(span for span in spans if span.text)


def _flow(items: Sequence[tuple[Span, str]], width: int) -> list[Line]:
    """A legend: as many of its items on a line as there is room for."""
    lines: list[Line] = [BLANK]
    for glyph, words in items:
        used = line_width(lines[-1])
        if used and used + 4 + len(words) > width:
            lines.append(BLANK)
        lines[-1] += (Span("  " if lines[-1] else ""), glyph, Span(f" {words}"))
    return lines


def breakdown_bars(estimate: "Estimate", width: int, *, rows: int = len(CATEGORIES)) -> list[Line]:
    """The same in so many lines, each with a bar of its own; what there is no room for is summed up."""
    alive = f"{format_bytes(estimate.live_bytes)} alive"
    title = f"Peak in {PHASE_WORDS[estimate.peak_phase]}: {alive}"
    if len(title) > width:
        title = f"Peak in {estimate.peak_phase}: {alive}"
    present = largest_first(estimate.at_peak)
    shown = present if len(present) <= rows else present[: max(rows - 1, 0)]
    total = sum(estimate.at_peak.values())
    room = max(width - 17 - 11 - 7, 0)
    lines: list[Line] = [(Span(fit(title, width), bold=True),)]
    for category, size in shown:
        bar = max(round(size * (room - 2) / present[0][1]), 0) if room > 4 else 0
        amount = pad(format_bytes(size), 10, right=True) + pad(share(size, total), 7, right=True)
        name = pad(category.replace("_", " "), 16)
        lines.append((fill(category), Span(f" {name}{amount} "), fill(category, bar)))
    if len(shown) < len(present):
        rest = format_bytes(sum(size for _, size in present[len(shown) :]))
        lines.append((Span(f"  {pad(f'{len(present) - len(shown)} others', 16)}{pad(rest, 10, right=True)}"),))
    return lines


class Bar(Frozen):
    """A column of the chart: its name, bytes (None: not known yet) and verdict."""

    name: str
    size: int | None
    verdict: Verdict = "fits"


def bar_chart(title: str, bars: Sequence[Bar], limit: int, current: str, width: int, height: int) -> list[Line]:
    """Device memory over a setting: a column per value, the card's line, the present value marked."""
    height = max(height - 3, 1)
    axis = 6
    each = max((width - axis) // max(len(bars), 1), 2)
    top = max([limit, *(bar.size for bar in bars if bar.size is not None), 1])
    line_at = min(int(limit / top * height * 0.999), height - 1)
    lines: list[Line] = [(Span(fit(title, width), bold=True),)]
    for row in reversed(range(height)):
        label = _gib(limit) if row == line_at else "0" if row == 0 else ""
        spans = [Span(pad(label, axis - 1, right=True) + " ", MUTED)]
        for bar in bars:
            eighths = 0 if bar.size is None else min(max(round(bar.size / top * height * 8) - row * 8, 0), 8)
            span = Span("")
            if eighths or row == line_at:
                span = Span("", VERDICT_COLOURS[bar.verdict if eighths else "does-not-fit"], bold=bar.name == current)
            glyph = _EIGHTHS[eighths] if eighths else RULE if row == line_at else " "
            spans.append(span._replace(text=glyph * (each - 1)))
            spans.append(Span(RULE, MUTED) if row == line_at else span._replace(text=" "))
        lines.append(tuple(spans))
    names, room = [Span(" " * axis)], width - axis
    for bar in bars[: max(-(-room // each), 0)]:
        name = pad(bar.name if len(bar.name) < each else _short(bar.name), each - 1)[:room]
        names += [Span(name, bold=bar.name == current, reverse=bar.name == current), Span(" ")]
        room -= each
    return [*lines, tuple(names)]


def _short(number: str) -> str:
    """1024 as "1k"."""
    return f"{int(number) // 1024}k" if int(number) % 1024 == 0 else number


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f}G"


class Stretch(Frozen):
    """A stretch of the step: its phase, and its highest moment with what is alive then, by category."""

    phase: Phase
    size: int
    by_category: Mapping[Category, int]
    moment: "Moment | None" = None


def stretches(estimate: "Estimate", columns: int) -> tuple[Stretch, ...]:
    """The step in at most so many."""
    return tuple(
        Stretch(phase=phase, size=size, by_category=estimate.timeline.by_category(moment), moment=moment)
        for phase, size, moment in estimate.timeline.points(columns)
    )


class _Scale(Frozen):
    """What a row of a step's picture stands for: the bytes below it, those it is high, its rows, that of the limit."""

    base: int
    top: int
    rows: int
    line_at: int


def is_near(room: int, steps: Sequence[Stretch], base: int = 0) -> bool:
    """Whether the limit is drawn: where the step comes near to it, or goes beyond."""
    peak = max((step.size for step in steps), default=0)
    return 0 < room <= base + 1.6 * (peak - base)


def step_picture(
    steps: Sequence[Stretch], room: int, width: int, height: int, *, cursor: int | None = None, base: int = 0
) -> list[Line]:
    """The step from left to right, stacked by category; the card's room for tensors, the peak and the cursor marked.

    base: bytes that the stretches leave out, below the picture.
    """
    peak = max((step.size for step in steps), default=0)
    near = is_near(room, steps, base)
    top = max(peak - base, room - base if near else 0, 1)
    order = [c for c in CATEGORIES if any(step.by_category.get(c) for step in steps)]
    legend = _flow([(fill(category), category.replace("_", " ")) for category in order], width - AXIS)
    body = max(height - 3 - len(legend), 1)
    line_at = min(int((room - base) / top * body * 0.999), body - 1) if near else -1
    scale = _Scale(base=base, top=top, rows=body, line_at=line_at)
    stacks = [_stack(step, order, scale) for step in steps]
    margin = Span(" " * AXIS)
    return [
        *(_row(row, stacks, scale, room, cursor) for row in reversed(range(body))),
        (margin, Span(_marks(steps, peak, cursor))),
        (Span(" " * AXIS + phase_axis([step.phase for step in steps]), MUTED),),
        *((margin, *line) for line in legend),
    ]


def _stack(step: Stretch, order: Sequence[Category], scale: _Scale) -> list[Category]:
    """A category for each row that the stretch fills, from below."""
    stack: list[Category] = []
    done = 0
    for category in order:
        done += step.by_category.get(category, 0)
        stack += [category] * (round(done / scale.top * scale.rows) - len(stack))
    return stack


def _row(row: int, stacks: Sequence[Sequence[Category]], scale: _Scale, room: int, cursor: int | None) -> Line:
    """One line of the picture."""
    label = ""
    if row == 0:
        label = _gib(scale.base) if scale.base else "0"
    elif row == scale.line_at:
        label = _gib(room)
    elif row == scale.rows - 1:
        label = _gib(scale.base + scale.top)
    cells = [stack[row] if row < len(stack) else None for stack in stacks]
    spans = [Span(pad(label, AXIS - 1, right=True) + " ", MUTED)]
    empty = RULE if row == scale.line_at else " "
    before = len(cells) if cursor is None else min(cursor, len(cells))
    spans += _runs(cells[:before], empty)
    if before < len(cells):
        at = cells[before]
        spans.append(Span("│", MUTED) if at is None else Span("▓", CATEGORY_COLOURS[at], dim=True))
        spans += _runs(cells[before + 1 :], empty)
    return tuple(spans)


def _runs(cells: Sequence[Category | None], empty: str) -> Iterator[Span]:
    """A span for all equal neighbours."""
    for category, run in groupby(cells):
        width = len(list(run))
        yield Span(empty * width, _LIMIT) if category is None else fill(category, width)


def _marks(steps: Sequence[Stretch], peak: int, cursor: int | None) -> str:
    """The line under the picture: the peak's place and size, and the cursor's place."""
    if not steps:
        return ""
    at = next(i for i, step in enumerate(steps) if step.size == peak)
    marks = list(" " * len(steps))
    marks[at] = "▲"
    if cursor is not None and cursor != at:
        marks[min(cursor, len(steps) - 1)] = "│"
    note = f" peak {format_bytes(peak)}"
    start = at + 1
    if at + len(note) >= len(steps):  # no room on its right
        note = f"peak {format_bytes(peak)} "
        start = at - len(note)
    for i, letter in enumerate(note, start) if start >= 0 else ():
        marks[i] = letter if marks[i] == " " else marks[i]
    return "".join(marks)


def phase_axis(phases: Sequence[Phase]) -> str:
    """The phases' names, each where it begins."""
    return "".join(pad(f"│{phase}", len(list(run))) for phase, run in groupby(phases))


def step_and_limit(estimate: "Estimate", width: int, height: int) -> list[Line]:
    """The step's picture, and what the limit leaves for live tensors in words."""
    steps, room = stretches(estimate, width - AXIS), estimate.tensor_room_bytes
    words = ""
    if is_near(room, steps):
        words = f"{RULE} {format_bytes(room)}: what the limit leaves for live tensors."
    elif room > 0:
        words = f"The limit leaves {format_bytes(room)} for live tensors, above the picture."
    indent = " " * AXIS
    return [
        *step_picture(steps, room, width, height),
        *(paragraph(words, width, first=indent, rest=indent) if words else ()),
    ]


def amount(num_bytes: int, total: int) -> str:
    """Bytes and their share, as they stand before a row of the ledger."""
    return pad(format_bytes(num_bytes), 10, right=True) + pad(share(num_bytes, total), 7, right=True)


def tensor_rows(rows: Sequence[TensorRow], total: int, width: int, *, lives: bool = False) -> list[Line]:
    """Rows of the ledger, each with its why under it. lives: in full, with category and phases, however long; else a
    line each, cut where there is no room.
    """
    room, margin = max(width - 20, 20), " " * 20
    lines: list[Line] = []
    for row in rows:
        shape = " × ".join(map(str, row.shape)) or "scalar"
        count = f"{row.count} × " if row.count > 1 else ""
        words = f"{row.name}: {count}({shape}) {row.dtype}"
        if lives:
            words += f", {row.category.replace('_', ' ')}, {_lives(row)}"
            first, *more = wrap(words, room)
        else:
            first, more = fit(printable(words), max(width - 20, 8)), []
        glyph = fill(row.category)
        lines.append((Span(f"{amount(row.bytes, total)} "), glyph, Span(f" {first}", bold=True)))
        lines += [(Span(margin + text),) for text in more]
        lines += paragraph(row.why, room + len(margin), first=margin, rest=margin, colour=MUTED)
    return lines


def _lives(row: TensorRow) -> str:
    if not row.dies:
        return f"from {row.born} on"
    return f"within {row.born}" if row.born == row.dies else f"{row.born} to {row.dies}"


def indented(lines: Sequence[Line], columns: int = 2) -> list[Line]:
    """The lines so many columns further right."""
    return [(Span(" " * columns), *line) for line in lines]
