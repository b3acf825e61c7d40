"""The same answers as Markdown, for a pull request's comment or a notebook."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memplanner.errors import printable
from memplanner.report.notes import note_sentences
from memplanner.report.phrases import (
    PHASE_WORDS,
    SQUEEZED,
    how_read,
    largest_first,
    margin_words,
    plan_words,
    share,
    verdict_line,
)
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.report.check_text import PlanAnswer
    from memplanner.report.problems import NoAnswer
    from memplanner.report.terminal import Page

JOINER = "\u2060"
"""Has no width, and lets no word reach across."""


def escape(text: str) -> str:
    """Untrusted text as itself: no markup, no links, no HTML, no table cells of its own."""
    text = "".join(f"\\{c}" if c in r"\`*_{}[]()#+!|<>&~@" else c for c in printable(text))
    for start in ("://", "www."):  # where a bare address becomes a link
        text = text.replace(start, f"{start[:-1]}{JOINER}{start[-1]}")
    return text.replace("@", f"@{JOINER}")  # nobody is called


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int = 1) -> list[str]:
    """A table whose columns from `right_from` on are right-aligned."""
    rule = ["---:" if i >= right_from else "---" for i in range(len(titles))]
    return [f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows)]


def problems_markdown(answer: "NoAnswer", page: "Page") -> str:
    """Why there is no answer."""
    why = "a defect of its own" if answer.is_defect else "a plan, file or flag is wrong"
    lines = [f"**memplanner has no answer: {why}**", ""]
    return "\n".join([*lines, *(f"- {escape(str(problem))}" for problem in answer.problems)]) + "\n"


def check_markdown(answer: "PlanAnswer", page: "Page") -> str:
    """`check --format markdown`."""
    estimate, changes = answer.estimate, answer.changes
    lines = [f"**{escape(verdict_line(estimate))}**", "", escape(plan_words(estimate.plan)), ""]
    wanted = ("wanted",) if estimate.is_squeezed else ()
    names = ("live", "allocated", "fragmentation", "reserved", *wanted, "context", "device", "limit", "margin")
    sizes = [(name, getattr(estimate, f"{name}_bytes")) for name in names]
    lines += markdown_table(("Peak", "Bytes", ""), [(name, str(size), format_bytes(size)) for name, size in sizes])
    lines += ["", f"Alive at the peak, in {PHASE_WORDS[estimate.peak_phase]}:", ""]
    lines += markdown_table(
        ("Category", "Bytes", "", "Share"),
        [
            (c.replace("_", " "), str(size), format_bytes(size), share(size, estimate.live_bytes))
            for c, size in largest_first(estimate.at_peak)
        ],
    )
    if changes is not None and (shown := changes.fitting or changes.others):
        fit_words = "fit without squeezing" if estimate.is_squeezed else "fit"
        title = f"Any one of these makes it {fit_words}:" if changes.fitting else "These save most, none is enough:"
        lines += ["", title, ""]
        lines += [f"- `{c.typed}` saves {format_bytes(c.saved_bytes)}: {c.effect}" for c in shown]
    if changes is not None and (c := changes.together) is not None:
        lines += ["", f"Together: `{c.typed}` saves {format_bytes(c.saved_bytes)}: {c.effect}"]
    for title, texts in how_read(answer.foreign).items() if answer.foreign is not None else ():
        lines += ["", f"{escape(title)}:", "", *(f"- {escape(text)}" for text in texts)]
    lines += [
        "",
        *(f"- {escape(note)}" for note in note_sentences(estimate.notes)),
        *([f"- {escape(SQUEEZED)}"] if estimate.is_squeezed else []),
        f"- {escape(margin_words(estimate.margin))}.",
        f"- Modelled: {escape(estimate.implementation)}.",
    ]
    return "\n".join([*lines, f"- Plan: {escape(answer.label)}."]) + "\n"
