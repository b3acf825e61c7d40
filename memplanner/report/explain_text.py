"""`memplanner explain` for people: the picture of the step, then the largest tensors at its peak, each with its why."""

from typing import TYPE_CHECKING

from memplanner.report.check_text import breakdown, verdict
from memplanner.report.notes import note_sentences
from memplanner.report.palette import ACCENT, BAD, CATEGORY_COLOURS, CATEGORY_GLYPHS, MUTED
from memplanner.report.phrases import PHASE_WORDS, plan_words, share
from memplanner.report.terminal import Cell, Column, Page, heading, pad, table, wrap
from memplanner.timeline import Phase, TensorRow
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_AXIS = 11
_HEIGHT = 10


def explain_text(estimate: "Estimate", page: Page, *, label: str, top: int) -> str:
    """The whole report; `top` is how many tensors are listed."""
    lines = [
        *verdict(estimate, page),
        *wrap(plan_words(estimate.plan), page.width, rest="  "),
        *wrap(f"Plan: {label}.", page.width, rest="  "),
        *heading(page, "Live bytes over one step"),
        *picture(estimate, page),
        *_phases(estimate, page),
        *breakdown(estimate, page),
        *_tensors(estimate, page, top),
        *heading(page, "Modelled"),
        *wrap(estimate.implementation, page.width, first="  ", rest="  "),
        *(
            line
            for note in note_sentences(estimate.notes)
            for line in wrap(note, page.width, first="  - ", rest="    ")
        ),
    ]
    return "\n".join(lines) + "\n"


def columns_of(points: tuple[tuple[Phase, int], ...], width: int) -> list[tuple[Phase, int]]:
    """The curve as `width` columns: every phase gets a readable stretch, each column the most of its points."""
    runs: list[tuple[Phase, list[int]]] = []
    for phase, size in points:
        if not runs or runs[-1][0] != phase:
            runs.append((phase, []))
        runs[-1][1].append(size)
    if not runs:
        return []
    least = min(max((len(phase) + 1 for phase, _ in runs), default=1), width // len(runs))
    if least < 1:  # more phases than columns: what is left is one column per phase, the first `width` of them
        return [(phase, max(sizes)) for phase, sizes in runs[:width]]
    spare = width - least * len(runs)
    total = sum(len(sizes) for _, sizes in runs)
    columns: list[tuple[Phase, int]] = []
    done = 0
    for i, (phase, sizes) in enumerate(runs):
        done += len(sizes)
        share_end = round(spare * done / total)
        stretch = least * (i + 1) + share_end - len(columns)
        for c in range(stretch):
            first = c * len(sizes) // stretch
            last = max((c + 1) * len(sizes) // stretch, first + 1)
            columns.append((phase, max(sizes[first:last])))
    return columns


def picture(estimate: "Estimate", page: Page) -> list[str]:
    """Block characters, time to the right; the peak's column is marked and the card's line drawn where it is near.

    The line is what the limit leaves for live tensors: less the context and what the allocator holds unused.
    """
    columns = columns_of(estimate.curve(), page.width - _AXIS - 3)
    if not columns:
        return ["  nothing to draw"]
    peak = max(size for _, size in columns)
    room = estimate.limit_bytes - (estimate.device_bytes - estimate.allocated_bytes)
    near = 0 < room <= 1.6 * peak
    top = max(peak, room if near else 0) or 1
    at = next(i for i, (_, size) in enumerate(columns) if size == peak)
    room_row = min(int(room / top * _HEIGHT), _HEIGHT - 1) if near else -1
    lines = []
    for row in reversed(range(_HEIGHT)):
        label = ""
        if row == _HEIGHT - 1 or (row == 0):
            label = format_bytes(round(top * (row + 1) / _HEIGHT), decimals=1) if row else "0"
        if row == room_row:
            label = format_bytes(room, decimals=1)
        line = ""
        for i, (_, size) in enumerate(columns):
            eighths = min(max(round(size / top * _HEIGHT * 8) - row * 8, 0), 8)
            colour = BAD if near and size > room else ACCENT if i == at else CATEGORY_COLOURS["parameters"]
            if eighths or row != room_row:
                line += page.paint(_EIGHTHS[eighths], colour) if eighths else " "
            else:
                line += page.paint("╌", MUTED)
        lines.append(f"  {pad(label, _AXIS - 1, right=True)} {line}".rstrip())
    indent = " " * (_AXIS + 2)
    lines.append(f"{indent}{_marker(columns, at, format_bytes(peak))}".rstrip())
    lines.append(f"{indent}{_phase_axis(columns)}".rstrip())
    if near:
        lines += wrap(
            f"╌ {format_bytes(room)}: what the limit leaves for live tensors.", page.width, first=indent, rest=indent
        )
    elif room > 0:
        lines += wrap(
            f"The limit leaves {format_bytes(room)} for live tensors, above the picture.",
            page.width,
            first=indent,
            rest=indent,
        )
    return lines


def _marker(columns: list[tuple[Phase, int]], at: int, size: str) -> str:
    text = f"▲ peak {size}"
    if at + len(text) > len(columns):
        text = f"peak {size} ▲"
        return text.rjust(at + 1) if at + 1 >= len(text) else text
    return " " * at + text


def _phase_axis(columns: list[tuple[Phase, int]]) -> str:
    axis, start = "", 0
    for i in range(1, len(columns) + 1):
        if i == len(columns) or columns[i][0] != columns[start][0]:
            axis += pad("│" + columns[start][0], i - start)
            start = i
    return axis


def _phases(estimate: "Estimate", page: Page) -> list[str]:
    rows = [
        (
            Cell(text=PHASE_WORDS[phase.name], bold=phase.name == estimate.peak_phase),
            Cell(text=format_bytes(phase.peak_bytes), bold=phase.name == estimate.peak_phase),
            format_bytes(phase.end_bytes),
        )
        for phase in estimate.phases
    ]
    columns = (Column(title="Phase"), Column(title="Most", right=True), Column(title="At its end", right=True))
    return ["", *table(page, columns, rows)]


def _tensors(estimate: "Estimate", page: Page, top: int) -> list[str]:
    rows = estimate.rows[:top]
    lines = heading(page, f"The {len(rows)} largest of {len(estimate.rows)} rows alive at the peak")
    for row in rows:
        lines += _tensor(row, estimate.allocated_bytes, page)
    rest = sum(row.bytes for row in estimate.rows[top:])
    if rest:
        lines.append(f"{_amount(rest, estimate.allocated_bytes)}  in all other rows")
    return lines


def _amount(num_bytes: int, total: int) -> str:
    return f"  {pad(format_bytes(num_bytes), 10, right=True)} {pad(share(num_bytes, total), 6, right=True)}"


def _tensor(row: TensorRow, total: int, page: Page) -> list[str]:
    glyph = page.paint(CATEGORY_GLYPHS[row.category] if page.depth == "none" else "█", CATEGORY_COLOURS[row.category])
    shape = " × ".join(map(str, row.shape)) or "scalar"
    count = f"{row.count} × " if row.count > 1 else ""
    lives = f"{row.born} to {row.dies}" if row.dies else f"from {row.born} on"
    lives = f"within {row.born}" if row.born == row.dies else lives
    indent = " " * 22
    what, *more = wrap(
        f"{row.name}: {count}({shape}) {row.dtype}, {row.category.replace('_', ' ')}, {lives}",
        page.width - 22,
    )
    lines = [f"{_amount(row.bytes, total)} {glyph} {page.paint(what, bold=True)}", *(indent + text for text in more)]
    lines += [page.paint(text, MUTED) for text in wrap(row.why, page.width, first=indent, rest=indent)]
    return lines
