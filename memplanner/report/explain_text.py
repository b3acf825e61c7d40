"""`memplanner explain` for people: the picture of the step, then the largest tensors at its peak, each with its why."""

from typing import TYPE_CHECKING

from memplanner.frozen import Frozen
from memplanner.report.check_text import opening
from memplanner.report.layout import BLANK, Column, Line, Span, bullets, heading, paragraph, table
from memplanner.report.notes import note_sentences
from memplanner.report.phrases import PHASE_WORDS
from memplanner.report.pictures import amount, indented, step_and_limit, tensor_rows
from memplanner.report.summary import breakdown
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate
    from memplanner.report.terminal import Page

HEIGHT = 15
"""Lines of the picture, with its axis and its legend."""


class Explanation(Frozen):
    """What `explain` has to say; `top` is how many tensors are listed."""

    estimate: "Estimate"
    label: str
    top: int


def explain_text(answer: Explanation, page: "Page") -> str:
    """The whole report."""
    estimate, width = answer.estimate, page.width
    return page.write(
        [
            *opening(estimate, answer.label, width),
            *heading("Live bytes over one step"),
            *indented(step_and_limit(estimate, width - 2, HEIGHT)),
            *_phases(estimate, width),
            *breakdown(estimate, width),
            *_tensors(estimate, width, answer.top),
            *heading("Modelled"),
            *paragraph(estimate.implementation, width, first="  ", rest="  "),
            *bullets(note_sentences(estimate.notes), width),
        ]
    )


def _phases(estimate: "Estimate", width: int) -> list[Line]:
    rows = [
        (
            Span(PHASE_WORDS[live.name], bold=live.name == estimate.peak_phase),
            Span(format_bytes(live.peak_bytes), bold=live.name == estimate.peak_phase),
            format_bytes(live.end_bytes),
            format_bytes(allocated.peak_bytes),
        )
        for live, allocated in zip(estimate.live_phases, estimate.phases, strict=True)
    ]
    titles = ("Live, most", "At its end", "Allocated, most")
    columns = (Column(title="Phase"), *(Column(title=title, right=True) for title in titles))
    return [BLANK, *table(columns, rows, width)]


def _tensors(estimate: "Estimate", width: int, top: int) -> list[Line]:
    rows, total = estimate.rows[:top], estimate.live_bytes
    lines = heading(f"The {len(rows)} largest of {len(estimate.rows)} rows alive at the peak")
    lines += indented(tensor_rows(rows, total, width - 2, lives=True))
    rest = sum(row.bytes for row in estimate.rows[top:])
    return [*lines, (Span(f"  {amount(rest, total)}  in all other rows"),)] if rest else lines
