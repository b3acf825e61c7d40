"""`check --all` for people and, as Markdown, for a job's summary; `diff` as both."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from memplanner.report.growth_phrases import (
    TITLES,
    cells_of,
    change_words,
    complaints,
    explanation,
    growth_words,
    row_words,
    state_words,
    summary_words,
)
from memplanner.report.layout import BLANK, Column, Line, Span, heading, paragraph, section, table
from memplanner.report.markdown import escape, markdown_table
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import SQUEEZED

if TYPE_CHECKING:
    from memplanner.budgets.check import Checked, CheckedPlans
    from memplanner.budgets.growth import Growth
    from memplanner.report.terminal import Page

_MOST_NOTES: Final = 100


def _colour(checked: "Checked") -> str:
    return VERDICT_COLOURS["does-not-fit" if not checked.ok else checked.estimate.verdict]


def _notes(checked_plans: "CheckedPlans") -> list[str]:
    """What is to be known beside the figures."""
    notes = []
    if checked_plans.gone:
        notes.append(f"in the lock, but no plan any more: {', '.join(checked_plans.gone)}")
    versions = {checked.growth.version for checked in checked_plans.plans if checked.growth and checked.growth.version}
    notes += [f"the lock was written by memplanner {old}, this is {new}" for old, new in sorted(versions)]
    notes += [f"{c.named.name}: {SQUEEZED}" for c in checked_plans.plans if c.ok and c.estimate.is_squeezed]
    for checked in checked_plans.plans:
        foreign = checked.named.foreign
        if foreign is not None:
            warnings = [*foreign.not_modelled, *(f"{key}: ignored, as asked" for key in foreign.ignored)]
            notes += [f"{checked.named.name}, from {foreign.framework}: {line}" for line in warnings]
    more = [f"and {len(notes) - _MOST_NOTES:,} more"] if len(notes) > _MOST_NOTES else []
    return [*notes[:_MOST_NOTES], *more]


def budgets_text(checked_plans: "CheckedPlans", page: "Page") -> str:
    """The table, then why what fails does."""
    first = summary_words(len(checked_plans.failed), len(checked_plans.plans)).upper()
    colour = VERDICT_COLOURS["does-not-fit" if checked_plans.failed else "fits"]
    rows = [
        [Span(text, _colour(c) if i == 1 else "", bold=i == 2) for i, text in enumerate(_shown(c, checked_plans))]
        for c in checked_plans.plans
    ]
    columns = [Column(title=title, right=2 <= i <= 5, shrinks=i == 0) for i, title in enumerate(_titles(checked_plans))]
    columns[-1] = Column(title="GPU")
    lines: list[Line] = [(Span(first, colour, bold=True),), BLANK, *table(columns, rows, page.width)]
    for checked in checked_plans.failed:
        lines += heading(f"{checked.named.name}: {state_words(checked)}")
        for text in (*complaints(checked), *explanation(checked)):
            lines += paragraph(text, page.width, first="  ", rest="    ")
    return page.write([*lines, *section("Notes", _notes(checked_plans), page.width)])


def _titles(checked_plans: "CheckedPlans") -> tuple[str, ...]:
    return TITLES if checked_plans.lock is not None else (*TITLES[:5], TITLES[6])


def _shown(checked: "Checked", checked_plans: "CheckedPlans") -> tuple[str, ...]:
    cells = cells_of(checked)
    return cells if checked_plans.lock is not None else (*cells[:5], cells[6])


def budgets_markdown(checked_plans: "CheckedPlans", page: "Page") -> str:
    """The same for a pull request."""
    lines = [f"**{escape(summary_words(len(checked_plans.failed), len(checked_plans.plans)))}**", ""]
    rows = [[escape(text) for text in _shown(checked, checked_plans)] for checked in checked_plans.plans]
    lines += markdown_table(_titles(checked_plans), rows, right_from=2)
    for checked in checked_plans.failed:
        lines += ["", f"**{escape(checked.named.name)}: {escape(state_words(checked))}**", ""]
        lines += [f"- {escape(text)}" for text in (*complaints(checked), *explanation(checked))]
    notes = _notes(checked_plans)
    lines += ["", *(f"- {escape(note)}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def diff_text(growths: Sequence["Growth"], page: "Page") -> str:
    """Each plan's growth and its rows."""
    lines: list[Line] = []
    for growth in growths:
        title = f"{growth.name}: {growth_words(growth)}"
        lines += [BLANK, *paragraph(title, page.width, rest="  ", bold=True)]
        for text in _moved(growth):
            lines += paragraph(text, page.width, first="  ", rest="    ")
    return page.write(lines[1:] or [(Span("No plans in either"),)])


def _moved(growth: "Growth") -> list[str]:
    """What moved a plan's bytes, or that nothing of what has changed did."""
    if growth.changes and not growth.rows:
        return [f"no byte moved by {', '.join(map(change_words, growth.changes))}"]
    return [row_words(row, growth) for row in growth.rows]


def diff_markdown(growths: Sequence["Growth"], page: "Page") -> str:
    """The same as Markdown."""
    lines: list[str] = []
    for growth in growths:
        lines += ["", f"**{escape(growth.name)}**: {escape(growth_words(growth))}", ""]
        lines += [f"- {escape(text)}" for text in _moved(growth)]
    return "\n".join(lines[1:] or ["No plans in either"]) + "\n"
