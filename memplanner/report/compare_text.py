"""`memplanner compare`: one line per method and rank, everything else equal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memplanner.report.markdown import escape, markdown_table
from memplanner.report.notes import note_sentences
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import VERDICT_WORDS, device_word, plan_words
from memplanner.report.terminal import Cell, Column, Page, heading, table, wrap
from memplanner.units import format_bytes, format_count

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate

TITLES = ("Method", "Rank", "", "Device", "Allocated", "Peak in", "Trained", "Weights", "Gradients", "Optimizer")


def rows_of(estimates: Sequence["Estimate"]) -> list[tuple[str, ...]]:
    """The table's text, one tuple per estimate in TITLES' order. Optimizer is its state with the projectors."""
    rows: list[tuple[str, ...]] = []
    for estimate in estimates:
        method, kept = estimate.plan.method, estimate.persistent
        rows.append(
            (
                method.kind,
                "–" if method.kind == "full" else str(method.rank),
                VERDICT_WORDS[estimate.verdict].lower(),
                format_bytes(estimate.device_bytes),
                format_bytes(estimate.allocated_bytes),
                estimate.peak_phase,
                format_count(estimate.num_trainable),
                format_bytes(kept["parameters"] + kept["adapters"], decimals=1),
                format_bytes(kept["gradients"], decimals=1),
                format_bytes(kept["optimizer_state"] + kept["projectors"], decimals=1),
            )
        )
    return rows


def compare_text(estimates: Sequence["Estimate"], page: Page, *, label: str) -> str:
    """The table under one line that says what was held equal."""
    first = estimates[0]
    lines = [
        *wrap(f"Equal for all: {plan_words(first.plan, method=False)}", page.width, rest="  "),
        *wrap(f"Plan: {label}.", page.width, rest="  "),
        *heading(page, f"On {device_word(first.plan)}, {format_bytes(first.limit_bytes)}"),
        *_table(estimates, page),
    ]
    notes = dict.fromkeys(note for estimate in estimates for note in note_sentences(estimate.notes))
    if notes:
        lines += [*heading(page, "Notes")]
        lines += [line for note in notes for line in wrap(note, page.width, first="  - ", rest="    ")]
    return "\n".join(lines) + "\n"


def _table(estimates: Sequence["Estimate"], page: Page) -> list[str]:
    """As many of the columns, from the left, as the page has room for."""
    columns = [Column(title=title, right=i not in (0, 2, 5), shrinks=i == 0) for i, title in enumerate(TITLES)]
    cells = [
        [
            Cell(text=text, colour=VERDICT_COLOURS[estimate.verdict] if i == 2 else "", bold=i == 3)
            for i, text in enumerate(row)
        ]
        for estimate, row in zip(estimates, rows_of(estimates), strict=True)
    ]
    shown = len(TITLES)
    unbounded = Page(width=1000)
    while shown > 4 and max(map(len, table(unbounded, columns[:shown], [row[:shown] for row in cells]))) > page.width:
        shown -= 1
    return table(page, columns[:shown], [row[:shown] for row in cells])


def compare_markdown(estimates: Sequence["Estimate"], *, label: str) -> str:
    """The same table as Markdown."""
    lines = [f"Equal for all: {escape(plan_words(estimates[0].plan, method=False))}. Plan: {escape(label)}.", ""]
    return "\n".join(lines + markdown_table(TITLES, rows_of(estimates))) + "\n"
