"""The verdict of an estimate and what is alive at its peak, as lines: what every answer about a plan begins with.

For each there is a form with room for words and one with room for bars; text and screen draw the same figures.
"""

from typing import TYPE_CHECKING

from memplanner.report.layout import Column, Line, Span, fit, heading, pad, paragraph, stacked_bar, table
from memplanner.report.palette import CATEGORY_COLOURS, CATEGORY_GLYPHS, VERDICT_COLOURS
from memplanner.report.phrases import PHASE_WORDS, largest_first, need_words, share, spare_words, verdict_line
from memplanner.timeline import CATEGORIES, Category
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate


def fill(category: Category, width: int = 1) -> Span:
    """The category's colour, or the glyph that stands for it where there are none."""
    return Span("█" * width, CATEGORY_COLOURS[category], plain=CATEGORY_GLYPHS[category] * width)


def verdict(estimate: "Estimate", width: int) -> list[Line]:
    """The first line of an answer (two, where the page is very narrow)."""
    return paragraph(verdict_line(estimate), width, rest="  ", colour=VERDICT_COLOURS[estimate.verdict], bold=True)


def short_verdict(estimate: "Estimate", width: int) -> list[Line]:
    """Two lines: the verdict with what is needed of what there is, and what is left."""
    colour = VERDICT_COLOURS[estimate.verdict]
    need, spare = need_words(estimate), spare_words(estimate, shares=True)
    return [(Span(fit(need, width), colour, bold=True),), (Span(fit(spare, width), colour),)]


def breakdown(estimate: "Estimate", width: int) -> list[Line]:
    """What is alive at the peak, by category: one bar and a table."""
    sizes = estimate.at_peak
    parts = [(sizes[c], CATEGORY_GLYPHS[c], CATEGORY_COLOURS[c]) for c in CATEGORIES if sizes.get(c)]
    rows = [
        (fill(c), c.replace("_", " "), format_bytes(size), share(size, estimate.allocated_bytes))
        for c, size in largest_first(sizes)
    ]
    columns = (Column(), Column(), Column(right=True), Column(right=True))
    bar = (Span("  "), *stacked_bar(parts, width - 4))
    return [*heading("Alive at that moment"), bar, *table(columns, rows, width)]


def breakdown_bars(estimate: "Estimate", width: int, *, rows: int = len(CATEGORIES)) -> list[Line]:
    """The same in so many lines, each with a bar of its own; what there is no room for is summed up."""
    alive = f"{format_bytes(estimate.allocated_bytes)} alive"
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
        words = f" {pad(category.replace('_', ' '), 16)}{amount(size, total)} "
        lines.append((fill(category), Span(words), fill(category, bar)))
    if len(shown) < len(present):
        rest = format_bytes(sum(size for _, size in present[len(shown) :]))
        lines.append((Span(f"  {pad(f'{len(present) - len(shown)} others', 16)}{pad(rest, 10, right=True)}"),))
    return lines


def amount(num_bytes: int, total: int) -> str:
    """Bytes and their share, as they stand in a row of the breakdown or of the ledger."""
    return pad(format_bytes(num_bytes), 10, right=True) + pad(share(num_bytes, total), 7, right=True)
