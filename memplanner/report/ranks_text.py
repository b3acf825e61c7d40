"""`memplanner fit --evidence`: a rank per module, and what it holds of the gradients."""

from typing import TYPE_CHECKING, Any

from memplanner.errors import printable
from memplanner.report.as_json import estimate_object
from memplanner.report.check_text import verdict
from memplanner.report.markdown import escape, markdown_table
from memplanner.report.phrases import plan_words, verdict_line
from memplanner.report.terminal import Column, Page, heading, table, wrap

if TYPE_CHECKING:
    from memplanner.solve.ranks import Ranks

TITLES = ("Module", "Weights", "Rank", "Holds")


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
    assert method.kind != "full"
    lines = ["[method]", f'kind = "{method.kind}"', f"rank = {method.rank}"]
    if method.rank_pattern:
        lines += ["", "[method.rank_pattern]", *(f'"{name}" = {rank}' for name, rank in method.rank_pattern.items())]
    return [printable(line) for line in lines]


def ranks_text(found: "Ranks", page: Page, *, label: str) -> str:
    """The whole answer for people."""
    columns = [Column(title=title, right=i > 0) for i, title in enumerate(TITLES)]
    lines = [
        *verdict(found.estimate, page),
        *wrap(plan_words(found.estimate.plan), page.width, rest="  "),
        *wrap(f"Plan: {label}.", page.width, rest="  "),
        *heading(page, "Ranks by module"),
        *table(page, columns, _rows(found)),
        "",
        *wrap(_summary(found), page.width),
        *heading(page, "In the plan's file"),
        *(f"  {line}".rstrip() for line in settings(found)),
    ]
    return "\n".join(lines) + "\n"


def ranks_markdown(found: "Ranks", *, label: str) -> str:
    """The same as Markdown."""
    rows = [[escape(cell) for cell in row] for row in _rows(found)]
    lines = [f"**{escape(verdict_line(found.estimate))}**", "", f"Plan: {escape(label)}.", ""]
    lines += [*markdown_table(TITLES, rows), "", escape(_summary(found)), ""]
    return "\n".join([*lines, *(f"    {line}".rstrip() for line in settings(found))]) + "\n"


def ranks_object(found: "Ranks") -> dict[str, Any]:
    """The object of `fit --evidence --format json`."""
    return {
        "schema": "memplanner/ranks/1",
        "share": found.share,
        "uniform": {"rank": found.uniform, "share": found.uniform_share},
        "modules": [
            {"name": m.name, "weights": m.count, "rank": found.ranks[m.name], "share": m.shares[found.ranks[m.name]]}
            for m in found.modules
        ],
        "estimate": estimate_object(found.estimate),
    }
