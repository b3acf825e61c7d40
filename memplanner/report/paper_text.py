"""`memplanner paper`: published beside computed, with base and unit, and why a figure cannot be reproduced."""

from collections.abc import Sequence

from memplanner.report.as_json import dump
from memplanner.report.layout import BLANK, Line, heading, paragraph
from memplanner.report.palette import MUTED
from memplanner.report.phrases import VERDICT_WORDS
from memplanner.report.terminal import Page
from memplanner.solve.published import Computed, Paper
from memplanner.units import GIB, format_bytes

QUANTITY_WORDS = {
    "weights-and-state": "weights, optimizer state and projectors",
    "optimizer": "optimizer state and projectors",
    "moments": "optimizer state without projectors",
    "allocated": "peak of allocated memory",
    "device": "peak of device memory",
    "none": "not memory",
}


def paper_text(papers: Sequence[tuple[Paper, Sequence[Computed]]], page: Page) -> str:
    """One block per paper; one entry per figure."""
    lines = paragraph(
        "Published figures beside what the model computes. GB is 10^9 bytes, GiB 2^30; papers print G for either.",
        page.width,
    )
    for paper, figures in papers:
        lines += [*heading(paper.title), *paragraph(paper.about, page.width, first="  ", rest="  ")]
        for computed in figures:
            lines += [BLANK, *_entry(computed, page.width)]
    return page.write(lines)


def _entry(computed: Computed, width: int) -> list[Line]:
    figure, rest = computed.figure, " " * 15
    lines = paragraph(figure.claim, width, first="  ", rest="  ")
    lines += paragraph(figure.published, width, first="    published  ", rest=rest)
    lines += paragraph(answer(computed), width, first="    computed   ", rest=rest)
    if figure.note:
        lines += paragraph(figure.note, width, first="    note       ", rest=rest, colour=MUTED)
    return lines


def answer(computed: Computed) -> str:
    """What was computed, in words and in both units."""
    if computed.refusal:
        return f"cannot be computed: {computed.refusal}"
    if computed.num_bytes is None:
        return "nothing: it is no memory"
    size = f"{computed.num_bytes / 10**9:.3f} GB = {format_bytes(computed.num_bytes, decimals=3)}"
    words = QUANTITY_WORDS[computed.figure.quantity]
    if computed.base_bytes is not None:
        saved = 1 - computed.num_bytes / computed.base_bytes if computed.base_bytes else 0.0
        return f"{100 * saved:.1f}%: {size} of {computed.base_bytes / GIB:.3f} GiB, {words}"
    verdict = f"{VERDICT_WORDS[computed.verdict].lower()}: " if computed.verdict else ""
    return f"{verdict}{size}, {words}"


def paper_json(papers: Sequence[tuple[Paper, Sequence[Computed]]], page: Page) -> str:
    """The object of `paper --format json`."""
    value = {
        "schema": "memplanner/paper/1",
        "papers": [
            {
                "title": paper.title,
                "about": paper.about,
                "figures": [
                    {
                        "claim": computed.figure.claim,
                        "published": computed.figure.published,
                        "quantity": computed.figure.quantity,
                        "computed_bytes": computed.num_bytes,
                        "base_bytes": computed.base_bytes,
                        "note": computed.refusal or computed.figure.note,
                    }
                    for computed in figures
                ],
            }
            for paper, figures in papers
        ],
    }
    return dump(value)
