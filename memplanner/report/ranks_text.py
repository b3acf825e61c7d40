"""`memplanner fit --evidence`: a rank per module, and what it holds of the gradients."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memplanner.components.methods.low_rank import LowRank
from memplanner.errors import printable
from memplanner.report.as_json import dump, estimate_object
from memplanner.report.check_text import opening
from memplanner.report.layout import BLANK, Column, Span, heading, paragraph, table
from memplanner.report.markdown import escape, markdown_table
from memplanner.report.phrases import verdict_line

if TYPE_CHECKING:
    from memplanner.report.terminal import Page
    from memplanner.solve.ranks import Ranks

TITLES = ("Module", "Weights", "Rank", "Holds")


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksAnswer:
    """What `fit --evidence` has to say; `label` says where the plan came from."""

    ranks: "Ranks"
    label: str


def _rows(found: "Ranks") -> list[tuple[str, ...]]:
    return [
        (module.name, str(module.count), str(rank := found.ranks[module.name]), f"{module.shares[rank]:.2%}")
        for module in found.modules
    ]


def _summary(found: "Ranks") -> str:
    text = f"These ranks hold {found.share:.2%} of the recorded gradients, the mean over the weights"
    if not found.uniform:
        return f"{text}; no rank that all have evidence for fits everywhere."
    return f"{text}; rank {found.uniform} everywhere, the largest that fits, holds {found.uniform_share:.2%}."


def settings(found: "Ranks") -> list[str]:
    """The lines of a plan file."""
    method = found.estimate.plan.method
    assert isinstance(method, LowRank)
    lines = ["[method]", f'kind = "{method.kind}"', f"rank = {method.rank}"]
    if method.rank_pattern:
        lines += ["", "[method.rank_pattern]", *(f'"{name}" = {rank}' for name, rank in method.rank_pattern.items())]
    return [printable(line) for line in lines]


def ranks_text(answer: RanksAnswer, page: "Page") -> str:
    """The whole answer for people."""
    found, width = answer.ranks, page.width
    columns = [Column(title=title, right=i > 0) for i, title in enumerate(TITLES)]
    return page.write(
        [
            *opening(found.estimate, answer.label, width),
            *heading("Ranks by module"),
            *table(columns, _rows(found), width),
            BLANK,
            *paragraph(_summary(found), width),
            *heading("In the plan's file"),
            *((Span(f"  {line}"),) for line in settings(found)),
        ]
    )


def ranks_markdown(answer: RanksAnswer, page: "Page") -> str:
    """The same as Markdown."""
    found = answer.ranks
    rows = [[escape(cell) for cell in row] for row in _rows(found)]
    lines = [f"**{escape(verdict_line(found.estimate))}**", "", f"Plan: {escape(answer.label)}.", ""]
    lines += [*markdown_table(TITLES, rows), "", escape(_summary(found)), ""]
    return "\n".join([*lines, *(f"    {line}".rstrip() for line in settings(found))]) + "\n"


def ranks_json(answer: RanksAnswer, page: "Page") -> str:
    """The object of `fit --evidence --format json`."""
    found = answer.ranks
    value = {
        "schema": "memplanner/ranks/1",
        "share": found.share,
        "uniform": {"rank": found.uniform, "share": found.uniform_share},
        "modules": [
            {"name": m.name, "weights": m.count, "rank": found.ranks[m.name], "share": m.shares[found.ranks[m.name]]}
            for m in found.modules
        ],
        "estimate": estimate_object(found.estimate),
    }
    return dump(value)
