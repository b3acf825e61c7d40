"""What every answer about an estimate shows, as lines: the verdict, and what is alive at the peak.

It stands apart from the larger pictures, so that `check` loads none of them.
"""

from typing import TYPE_CHECKING

from memplanner.report.layout import Column, Line, Span, heading, paragraph, stacked_bar, table
from memplanner.report.palette import CATEGORY_COLOURS, CATEGORY_GLYPHS, VERDICT_COLOURS
from memplanner.report.phrases import largest_first, share, verdict_line
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


def breakdown(estimate: "Estimate", width: int) -> list[Line]:
    """What is alive at the peak, by category: one bar and a table."""
    sizes = estimate.at_peak
    parts = [(sizes[c], CATEGORY_GLYPHS[c], CATEGORY_COLOURS[c]) for c in CATEGORIES if sizes.get(c)]
    rows = [
        (fill(c), c.replace("_", " "), format_bytes(size), share(size, estimate.live_bytes))
        for c, size in largest_first(sizes)
    ]
    columns = (Column(), Column(), Column(right=True), Column(right=True))
    bar = (Span("  "), *stacked_bar(parts, width - 4))
    return [*heading("Alive at that moment"), bar, *table(columns, rows, width)]
