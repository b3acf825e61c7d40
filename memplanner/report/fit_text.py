"""`memplanner fit`: the largest value that fits, what it needs, and what one more would."""

from typing import TYPE_CHECKING

from memplanner.errors import printable
from memplanner.frozen import Frozen
from memplanner.report.check_text import of_plan
from memplanner.report.layout import Column, Span, heading, paragraph, section, table
from memplanner.report.markdown import escape, markdown_table
from memplanner.report.notes import note_sentences
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import PHASE_WORDS, device_word, margin_words, plan_words, verdict_word
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate
    from memplanner.report.terminal import Page
    from memplanner.solve.largest import Largest

NAMES = {"rank": "rank", "batch-size": "batch size", "seq-len": "sequence length"}
TITLES = ("", "", "Device", "To spare", "Allocated", "Peak in")


class FitAnswer(Frozen):
    """What `fit` has to say; `label` says where the plan came from, `command` how to see the largest one whole."""

    largest: "Largest"
    label: str
    command: str


def headline(largest: "Largest") -> str:
    """One line: the value, the card, and why it is not more."""
    name, device = NAMES[largest.axis], device_word(largest.estimate.plan)
    if not largest.value:
        return f"NO {name.upper()} FITS {device}: 1 already needs {format_bytes(largest.estimate.device_bytes)}"
    line = f"LARGEST {name.upper()} ON {device}: {largest.value}"
    if largest.estimate.verdict == "tight":
        comfortable = f"{largest.comfortable} fits comfortably" if largest.comfortable else "none fits comfortably"
        line += f", tight; {comfortable}"
    return line if largest.above is not None else f"{line}, the most that makes sense; there is room for more"


def _rows(largest: "Largest") -> list[tuple["Estimate", tuple[str, ...]]]:
    shown = [(max(largest.value, 1), largest.estimate)]
    if largest.comfortable_estimate is not None and largest.comfortable != largest.value:
        shown.insert(0, (largest.comfortable, largest.comfortable_estimate))
    if largest.above is not None:
        shown.append((largest.value + 1, largest.above))
    return [
        (
            estimate,
            (
                f"{NAMES[largest.axis]} {value}",
                verdict_word(estimate),
                format_bytes(estimate.device_bytes),
                format_bytes(estimate.margin_bytes),
                format_bytes(estimate.allocated_bytes),
                PHASE_WORDS[estimate.peak_phase],
            ),
        )
        for value, estimate in shown
    ]


def _exactness(largest: "Largest") -> list[str]:
    """What is to be known of a value above which not every other one was tried."""
    reserve = "may fit as well, as less may be lost to fragmentation: between the two, not every one was tried"
    name = NAMES[largest.axis]
    notes = [f"a {name} of up to {largest.untried:,} {reserve}"] if largest.untried else []
    if largest.comfortable_untried and largest.comfortable != largest.value:
        notes.append(
            f"a {name} of up to {largest.comfortable_untried:,} {reserve.replace('fit', 'fit comfortably', 1)}"
        )
    return notes


def fit_text(answer: FitAnswer, page: "Page") -> str:
    """The whole answer for people."""
    largest, width = answer.largest, page.width
    estimate = largest.estimate
    rows = [
        [Span(text, VERDICT_COLOURS[e.verdict] if i == 1 else "") for i, text in enumerate(row)]
        for e, row in _rows(largest)
    ]
    columns = [Column(title=title, right=i in (2, 3, 4), shrinks=i == 5) for i, title in enumerate(TITLES)]
    margin = f"{margin_words(estimate.margin)}."
    command = [*heading("See it whole"), (Span(f"  {printable(answer.command)}"),)] if largest.value else []
    return page.write(
        [
            *paragraph(headline(largest), width, rest="  ", colour=VERDICT_COLOURS[estimate.verdict], bold=True),
            *of_plan(plan_words(estimate.plan), answer.label, width),
            *heading(f"On {device_word(estimate.plan)}, {format_bytes(estimate.limit_bytes)}"),
            *table(columns, rows, width),
            *command,
            *section("Notes", [*_exactness(largest), *note_sentences(estimate.notes), margin], width),
        ]
    )


def fit_markdown(answer: FitAnswer, page: "Page") -> str:
    """The same as Markdown."""
    largest = answer.largest
    lines = [f"**{escape(headline(largest))}**", "", escape(plan_words(largest.estimate.plan)), ""]
    lines += markdown_table(TITLES, [row for _, row in _rows(largest)], right_from=2)
    lines += ["", *(f"- {escape(note)}" for note in _exactness(largest)), f"- Plan: {escape(answer.label)}."]
    if largest.value:
        lines += ["", f"    {printable(answer.command)}"]
    return "\n".join(lines) + "\n"
