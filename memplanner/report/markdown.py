"""The same answers as Markdown, for a pull request's comment or a notebook."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memplanner.errors import Problem, printable
from memplanner.report.notes import note_sentences
from memplanner.report.phrases import PHASE_WORDS, how_read, plan_words, share, verdict_line
from memplanner.timeline import CATEGORIES
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.frameworks import Foreign
    from memplanner.prediction.estimate import Estimate
    from memplanner.solve.changes import Changes


_JOINER = "\u2060"
"""Has no width, and lets no word reach across."""


def escape(text: str) -> str:
    """Untrusted text as itself: no markup, no links, no HTML, no table cells of its own."""
    text = "".join(f"\\{c}" if c in r"\`*_{}[]()#+!|<>&~@" else c for c in printable(text))
    for start in ("://", "www."):  # where a bare address becomes a link
        text = text.replace(start, f"{start[:-1]}{_JOINER}{start[-1]}")
    return text.replace("@", f"@{_JOINER}")  # nobody is called


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int = 1) -> list[str]:
    """A table whose columns from `right_from` on are right-aligned."""
    rule = ["---:" if i >= right_from else "---" for i in range(len(titles))]
    return [f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows)]


def problems_markdown(problems: Sequence[Problem]) -> str:
    """Why there is no answer."""
    lines = ["**memplanner has no answer: the question was wrong**", ""]
    return "\n".join([*lines, *(f"- {escape(str(problem))}" for problem in problems)]) + "\n"


def check_markdown(
    estimate: "Estimate", changes: "Changes | None", *, label: str, foreign: "Foreign | None" = None
) -> str:
    """`check --format markdown`."""
    lines = [f"**{escape(verdict_line(estimate))}**", "", escape(plan_words(estimate.plan)), ""]
    lines += markdown_table(
        ("Peak", "Bytes", ""),
        (
            ("allocated", str(estimate.allocated_bytes), format_bytes(estimate.allocated_bytes)),
            ("fragmentation", str(estimate.fragmentation_bytes), format_bytes(estimate.fragmentation_bytes)),
            ("reserved", str(estimate.reserved_bytes), format_bytes(estimate.reserved_bytes)),
            ("context", str(estimate.context_bytes), format_bytes(estimate.context_bytes)),
            ("device", str(estimate.device_bytes), format_bytes(estimate.device_bytes)),
            ("limit", str(estimate.limit_bytes), format_bytes(estimate.limit_bytes)),
            ("margin", str(estimate.margin_bytes), format_bytes(estimate.margin_bytes)),
        ),
    )
    present = [(c, estimate.at_peak[c]) for c in CATEGORIES if estimate.at_peak.get(c)]
    lines += ["", f"Alive at the peak, in {PHASE_WORDS[estimate.peak_phase]}:", ""]
    lines += markdown_table(
        ("Category", "Bytes", "", "Share"),
        [
            (c.replace("_", " "), str(size), format_bytes(size), share(size, estimate.allocated_bytes))
            for c, size in sorted(present, key=lambda item: -item[1])
        ],
    )
    if changes is not None and (shown := changes.fitting or changes.others):
        lines += ["", "Any one of these makes it fit:" if changes.fitting else "These save most, none is enough:", ""]
        lines += [f"- `{c.typed}` saves {format_bytes(c.saved_bytes)}: {c.effect}" for c in shown]
    for title, told in how_read(foreign).items() if foreign is not None else ():
        lines += ["", f"{escape(title)}:", "", *(f"- {escape(text)}" for text in told)]
    lines += [
        "",
        *(f"- {escape(note)}" for note in note_sentences(estimate.notes)),
        f"- Modelled: {escape(estimate.implementation)}.",
    ]
    return "\n".join([*lines, f"- Plan: {escape(label)}."]) + "\n"
