"""`memplanner check` for people: the verdict first, then why."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memplanner.report.notes import note_sentences
from memplanner.report.palette import CATEGORY_COLOURS, CATEGORY_GLYPHS, MUTED, VERDICT_COLOURS
from memplanner.report.phrases import PHASE_WORDS, how_read, plan_words, share, verdict_line
from memplanner.report.terminal import Cell, Column, Page, fit, heading, stacked_bar, table, text_width, wrap
from memplanner.timeline import CATEGORIES
from memplanner.units import format_bytes, format_count

if TYPE_CHECKING:
    from memplanner.frameworks import Foreign
    from memplanner.prediction.estimate import Estimate
    from memplanner.solve.changes import Changes


def check_text(
    estimate: "Estimate", changes: "Changes | None", page: Page, *, label: str, foreign: "Foreign | None" = None
) -> str:
    """The whole report. `changes` is given where the plan does not fit; `label` says where the plan came from, and
    `foreign` how another framework's config was read.
    """
    lines = [
        *verdict(estimate, page),
        *wrap(plan_words(estimate.plan), page.width, rest="  "),
        *wrap(f"Plan: {label}.", page.width, rest="  "),
        *_peaks(estimate, page),
        *breakdown(estimate, page),
    ]
    if changes is not None:
        lines += _changes(changes, page)
    if foreign is not None:
        for title, told in how_read(foreign).items():
            lines += heading(page, title)
            lines += [line for text in told for line in wrap(text, page.width, first="  - ", rest="    ")]
    lines += _notes(estimate, page)
    return "\n".join(lines) + "\n"


def verdict(estimate: "Estimate", page: Page) -> list[str]:
    """The first line of an answer (two, where the page is very narrow)."""
    colour = VERDICT_COLOURS[estimate.verdict]
    return [page.paint(line, colour, bold=True) for line in wrap(verdict_line(estimate), page.width, rest="  ")]


def _peaks(estimate: "Estimate", page: Page) -> list[str]:
    limit = "what the device gives a process"
    if estimate.limit_bytes < estimate.total_bytes:
        which = "the budget" if estimate.plan.budget is not None else "less the headroom"
        limit = f"{which}, of {format_bytes(estimate.total_bytes)} that the device gives"
    if estimate.margin_bytes < 0:
        margin = f"{share(-estimate.margin_bytes, estimate.limit_bytes)} over the limit"
    else:
        margin = f"{share(estimate.margin_bytes, estimate.limit_bytes)} of the limit"
        margin += f"; tight below {format_bytes(estimate.error_margin_bytes)}"
    rows = [
        ("allocated", estimate.allocated_bytes, "live tensors"),
        ("fragmentation", estimate.fragmentation_bytes, "held by the caching allocator, no use at the peak"),
        ("reserved", estimate.reserved_bytes, "the two together"),
        ("context", estimate.context_bytes, "CUDA's own, outside the allocator"),
        ("device", estimate.device_bytes, "what nvidia-smi shows for the process"),
        ("limit", estimate.limit_bytes, limit),
        ("margin", estimate.margin_bytes, margin),
    ]
    cells = [
        (Cell(text=name), Cell(text=format_bytes(size), bold=name == "device"), Cell(text=text, colour=MUTED))
        for name, size, text in rows
    ]
    title = f"Peak, in {PHASE_WORDS[estimate.peak_phase]}"
    return [*heading(page, title), *table(page, (Column(), Column(right=True), Column(shrinks=True)), cells)]


def breakdown(estimate: "Estimate", page: Page) -> list[str]:
    """What is alive at the peak, by category: one bar and a table."""
    present = [(c, estimate.at_peak[c]) for c in CATEGORIES if estimate.at_peak.get(c)]
    bar = stacked_bar(page, [(size, CATEGORY_GLYPHS[c], CATEGORY_COLOURS[c]) for c, size in present], page.width - 4)
    rows = [
        (
            Cell(text=CATEGORY_GLYPHS[c] if page.depth == "none" else "█", colour=CATEGORY_COLOURS[c]),
            c.replace("_", " "),
            format_bytes(size),
            share(size, estimate.allocated_bytes),
        )
        for c, size in sorted(present, key=lambda item: -item[1])
    ]
    columns = (Column(), Column(), Column(right=True), Column(right=True))
    return [*heading(page, "Alive at that moment"), f"  {bar}", *table(page, columns, rows)]


def _changes(changes: "Changes", page: Page) -> list[str]:
    if changes.fitting:
        title = "Any one of these makes it fit, the least intrusive first"
        shown = changes.fitting
    else:
        title = "No single change makes it fit; these save most"
        shown = changes.others
    if not shown:
        return [*heading(page, "No single change makes it fit, and none that was tried saves anything")]
    rows = [(c.typed, f"saves {format_bytes(c.saved_bytes)}", f"→ {format_bytes(c.device_bytes)}") for c in shown]
    lines = table(page, (Column(), Column(right=True), Column(right=True)), rows)
    room = page.width - max(map(text_width, lines)) - 2
    lines = [line.ljust(max(map(len, lines))) for line in lines]
    if max(text_width(c.effect) for c in shown) <= room:
        lines = [f"{line}  {page.paint(c.effect, MUTED)}" for line, c in zip(lines, shown, strict=True)]
    else:
        lines = [
            text
            for line, c in zip(lines, shown, strict=True)
            for text in (line.rstrip(), page.paint(f"      {fit(c.effect, page.width - 6)}", MUTED))
        ]
    return [*heading(page, title), *lines]


def _notes(estimate: "Estimate", page: Page) -> list[str]:
    counts = f"{format_count(estimate.num_parameters)} parameters, {format_count(estimate.num_trainable)} trained"
    advice: list[str] = []
    if estimate.returns_segments:
        advice.append(
            "it fits only because the caching allocator returns unused segments to the device and asks again, which "
            "takes time."
        )
    saving = estimate.expandable_saving_bytes
    if saving > 0.01 * estimate.reserved_bytes:
        advice.append(f"PYTORCH_ALLOC_CONF=expandable_segments:True would reserve {format_bytes(saving)} less.")
    modelled = f"Modelled: {estimate.implementation}."
    notes: Sequence[str] = (counts, *note_sentences(estimate.notes), *advice, f"{estimate.margin_words}.", modelled)
    return [*heading(page, "Notes"), *(line for n in notes for line in wrap(n, page.width, first="  - ", rest="    "))]
