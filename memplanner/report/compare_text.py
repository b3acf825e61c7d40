"""`memplanner compare`: one line per method and rank, everything else equal."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from memplanner.frozen import Frozen
from memplanner.report.check_text import of_plan
from memplanner.report.layout import Column, Line, Span, heading, section, table_that_fits
from memplanner.report.markdown import escape, markdown_table
from memplanner.report.notes import note_sentences
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import device_word, plan_words, verdict_word
from memplanner.units import format_bytes, format_count

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate
    from memplanner.report.terminal import Page

TITLES = ("Method", "Rank", "", "Device", "Allocated", "Peak in", "Trained", "Weights", "Gradients", "Optimizer")


class Comparison(Frozen):
    """What `compare` has to say of one plan under several methods.

    methods: the word by which each estimate's method was asked for. label: where the plan came from. left_out: methods
    that no library combines with the plan's optimizer, and why.
    """

    methods: Sequence[str]
    estimates: Sequence["Estimate"]
    label: str
    left_out: Mapping[str, str] = MappingProxyType({})

    @property
    def remarks(self) -> list[str]:
        """A sentence for each method that is left out."""
        return [f"{method} is left out: {why}" for method, why in self.left_out.items()]

    @property
    def equal(self) -> str:
        """What all plans have in common: their base's format only where they do."""
        plans = [estimate.plan for estimate in self.estimates]
        return plan_words(plans[0], method=False, base=len({plan.quantization for plan in plans}) == 1)


def rows_of(answer: Comparison) -> list[tuple[str, ...]]:
    """The table's text, one tuple per estimate in TITLES' order. Optimizer is its state with the projectors."""
    rows: list[tuple[str, ...]] = []
    for word, estimate in zip(answer.methods, answer.estimates, strict=True):
        rank, kept = estimate.plan.method.chosen_rank, estimate.persistent
        rows.append(
            (
                word,
                "–" if rank is None else str(rank),
                verdict_word(estimate),
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


def compare_text(answer: Comparison, page: "Page") -> str:
    """The table under one line that says what was held equal."""
    estimates, width = answer.estimates, page.width
    first = estimates[0]
    notes = dict.fromkeys(note for estimate in estimates for note in note_sentences(estimate.notes))
    return page.write(
        [
            *of_plan(f"Equal for all: {answer.equal}", answer.label, width),
            *heading(f"On {device_word(first.plan)}, {format_bytes(first.limit_bytes)}"),
            *_table(answer, width),
            *section("Notes", [*answer.remarks, *notes], width),
        ]
    )


def _table(answer: Comparison, width: int) -> list[Line]:
    columns = [Column(title=title, right=i not in (0, 2, 5), shrinks=i == 0) for i, title in enumerate(TITLES)]
    cells = [
        [Span(text, VERDICT_COLOURS[estimate.verdict] if i == 2 else "", bold=i == 3) for i, text in enumerate(row)]
        for estimate, row in zip(answer.estimates, rows_of(answer), strict=True)
    ]
    return table_that_fits(columns, cells, width, least=4)


def compare_markdown(answer: Comparison, page: "Page") -> str:
    """The same table as Markdown."""
    lines = [f"Equal for all: {escape(answer.equal)}. Plan: {escape(answer.label)}.", ""]
    remarks = [f"- {escape(remark)}" for remark in answer.remarks]
    return "\n".join([*lines, *markdown_table(TITLES, rows_of(answer)), *([""] if remarks else []), *remarks]) + "\n"
