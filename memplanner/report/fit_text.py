"""`memplanner fit`: the largest value that fits, what it needs, and what one more would."""

from typing import TYPE_CHECKING

from memplanner.errors import printable
from memplanner.report.markdown import escape, markdown_table
from memplanner.report.notes import note_sentences
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import PHASE_WORDS, VERDICT_WORDS, device_word, plan_words
from memplanner.report.terminal import Cell, Column, Page, heading, table, wrap
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate
    from memplanner.solve.largest import Largest

NAMES = {"rank": "rank", "batch-size": "batch size", "seq-len": "sequence length"}
TITLES = ("", "", "Device", "To spare", "Allocated", "Peak in")


def headline(found: "Largest") -> str:
    """One line: the value, the card, and why it is not more."""
    name, device = NAMES[found.axis], device_word(found.estimate.plan)
    if not found.value:
        return f"NO {name.upper()} FITS {device}: 1 already needs {format_bytes(found.estimate.device_bytes)}"
    line = f"LARGEST {name.upper()} ON {device}: {found.value}"
    return line if found.above is not None else f"{line}, the most that makes sense; there is room for more"


def _rows(found: "Largest") -> list[tuple["Estimate", tuple[str, ...]]]:
    shown = [(max(found.value, 1), found.estimate)]
    if found.above is not None:
        shown.append((found.value + 1, found.above))
    return [
        (
            estimate,
            (
                f"{NAMES[found.axis]} {value}",
                VERDICT_WORDS[estimate.verdict].lower(),
                format_bytes(estimate.device_bytes),
                format_bytes(estimate.margin_bytes),
                format_bytes(estimate.allocated_bytes),
                PHASE_WORDS[estimate.peak_phase],
            ),
        )
        for value, estimate in shown
    ]


def fit_text(found: "Largest", page: Page, *, label: str, command: str) -> str:
    """The whole answer for people."""
    estimate = found.estimate
    colour = VERDICT_COLOURS[estimate.verdict]
    rows = [
        [Cell(text=text, colour=VERDICT_COLOURS[e.verdict] if i == 1 else "") for i, text in enumerate(row)]
        for e, row in _rows(found)
    ]
    lines = [
        *(page.paint(line, colour, bold=True) for line in wrap(headline(found), page.width, rest="  ")),
        *wrap(plan_words(estimate.plan), page.width, rest="  "),
        *wrap(f"Plan: {label}.", page.width, rest="  "),
        *heading(page, f"On {device_word(estimate.plan)}, {format_bytes(estimate.limit_bytes)}"),
        *table(page, [Column(title=t, right=i in (2, 3, 4), shrinks=i == 5) for i, t in enumerate(TITLES)], rows),
    ]
    if found.value:
        lines += [*heading(page, "See it whole"), f"  {printable(command)}"]
    notes = (*note_sentences(estimate.notes), f"{estimate.margin_words}.")
    lines += heading(page, "Notes")
    lines += [line for note in notes for line in wrap(note, page.width, first="  - ", rest="    ")]
    return "\n".join(lines) + "\n"


def fit_markdown(found: "Largest", *, label: str, command: str) -> str:
    """The same as Markdown."""
    lines = [f"**{escape(headline(found))}**", "", escape(plan_words(found.estimate.plan)), ""]
    lines += markdown_table(TITLES, [row for _, row in _rows(found)], right_from=2)
    lines += ["", f"Plan: {escape(label)}."]
    if found.value:
        lines += ["", f"    {printable(command)}"]
    return "\n".join(lines) + "\n"
