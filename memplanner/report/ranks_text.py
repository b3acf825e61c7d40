"""`memplanner fit --evidence`: a rank per module, and what it holds of the gradients."""

from typing import TYPE_CHECKING

from memplanner.errors import printable
from memplanner.frozen import Frozen
from memplanner.report.as_json import dump, estimate_object
from memplanner.report.check_text import opening
from memplanner.report.layout import BLANK, Column, Span, heading, paragraph, table
from memplanner.report.markdown import escape, markdown_table
from memplanner.report.phrases import verdict_line

if TYPE_CHECKING:
    from memplanner.report.terminal import Page
    from memplanner.solve.ranks import Ranks

TITLES = ("Module", "Weights", "Rank", "Holds")


class RanksAnswer(Frozen):
    """What `fit --evidence` has to say; `label` says where the plan came from."""

    ranks: "Ranks"
    label: str


def _rows(ranks: "Ranks") -> list[tuple[str, ...]]:
    return [
        (module.name, str(module.count), str(rank := ranks.ranks[module.name]), f"{module.shares[rank]:.2%}")
        for module in ranks.modules
    ]


def _summary(ranks: "Ranks") -> str:
    text = f"These ranks hold {ranks.share:.2%} of the recorded gradients, the mean over the weights"
    if not ranks.uniform:
        return f"{text}; no rank that all have evidence for fits everywhere."
    return f"{text}; rank {ranks.uniform} everywhere, the largest that fits, holds {ranks.uniform_share:.2%}."


def settings(ranks: "Ranks") -> list[str]:
    """The lines of a plan file."""
    method = ranks.estimate.plan.method
    lines = ["[method]", f'kind = "{method.kind}"', f"rank = {method.chosen_rank}"]
    if method.ranks_by_name:
        lines += ["", "[method.rank_pattern]", *(f'"{name}" = {rank}' for name, rank in method.ranks_by_name.items())]
    return [printable(line) for line in lines]


def ranks_text(answer: RanksAnswer, page: "Page") -> str:
    """The whole answer for people."""
    ranks, width = answer.ranks, page.width
    columns = [Column(title=title, right=i > 0) for i, title in enumerate(TITLES)]
    return page.write(
        [
            *opening(ranks.estimate, answer.label, width),
            *heading("Ranks by module"),
            *table(columns, _rows(ranks), width),
            BLANK,
            *paragraph(_summary(ranks), width),
            *heading("In the plan's file"),
            *((Span(f"  {line}"),) for line in settings(ranks)),
        ]
    )


def ranks_markdown(answer: RanksAnswer, page: "Page") -> str:
    """The same as Markdown."""
    ranks = answer.ranks
    rows = [[escape(cell) for cell in row] for row in _rows(ranks)]
    lines = [f"**{escape(verdict_line(ranks.estimate))}**", "", f"Plan: {escape(answer.label)}.", ""]
    lines += [*markdown_table(TITLES, rows), "", escape(_summary(ranks)), ""]
    return "\n".join([*lines, *(f"    {line}".rstrip() for line in settings(ranks))]) + "\n"


def ranks_json(answer: RanksAnswer, page: "Page") -> str:
    """The object of `fit --evidence --format json`."""
    ranks = answer.ranks
    value = {
        "schema": "memplanner/ranks/1",
        "share": ranks.share,
        "uniform": {"rank": ranks.uniform, "share": ranks.uniform_share},
        "modules": [
            {"name": m.name, "weights": m.count, "rank": ranks.ranks[m.name], "share": m.shares[ranks.ranks[m.name]]}
            for m in ranks.modules
        ],
        "estimate": estimate_object(ranks.estimate),
    }
    return dump(value)
