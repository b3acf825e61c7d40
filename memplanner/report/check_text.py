"""`memplanner check` for people: the verdict first, then why."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memplanner.frozen import Frozen
from memplanner.report.layout import (
    Column,
    Line,
    Span,
    bullets,
    fit,
    heading,
    line_width,
    paragraph,
    section,
    table,
    text_width,
)
from memplanner.report.notes import note_sentences
from memplanner.report.palette import MUTED
from memplanner.report.phrases import PHASE_WORDS, SQUEEZED, how_read, margin_words, plan_words, share
from memplanner.report.summary import breakdown, verdict
from memplanner.units import format_bytes, format_count

if TYPE_CHECKING:
    from memplanner.frameworks import Foreign
    from memplanner.prediction.estimate import Estimate
    from memplanner.report.terminal import Page
    from memplanner.solve.changes import Changes


class PlanAnswer(Frozen):
    """What `check` has to say of one plan. `changes` is given where the plan is not advisable; `label` says where the
    plan came from, and `foreign` how another framework's config was read.
    """

    estimate: "Estimate"
    label: str
    changes: "Changes | None" = None
    foreign: "Foreign | None" = None


def check_text(answer: PlanAnswer, page: "Page") -> str:
    """The whole report."""
    estimate, width = answer.estimate, page.width
    lines = [*opening(estimate, answer.label, width), *_peaks(estimate, width), *breakdown(estimate, width)]
    if answer.changes is not None:
        lines += _changes(answer.changes, width, is_squeezed=estimate.is_squeezed)
    if answer.foreign is not None:
        for title, texts in how_read(answer.foreign).items():
            lines += section(title, texts, width)
    return page.write([*lines, *heading("Notes"), *bullets(_notes(estimate), width)])


def opening(estimate: "Estimate", label: str, width: int) -> list[Line]:
    """How every answer about one plan begins: the verdict, the plan, where the plan came from."""
    return [*verdict(estimate, width), *of_plan(plan_words(estimate.plan), label, width)]


def of_plan(words: str, label: str, width: int) -> list[Line]:
    """The plan, and where it came from."""
    return [*paragraph(words, width, rest="  "), *paragraph(f"Plan: {label}.", width, rest="  ")]


def _peaks(estimate: "Estimate", width: int) -> list[Line]:
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
        ("live", estimate.live_bytes, "tensors alive at once"),
        ("allocated", estimate.allocated_bytes, "their blocks in the caching allocator, some larger than the tensor"),
        ("fragmentation", estimate.fragmentation_bytes, "held by the allocator besides, no use at the peak"),
        ("reserved", estimate.reserved_bytes, "the two together"),
        *([("wanted", estimate.wanted_bytes, "reserved where there is room for it")] if estimate.is_squeezed else []),
        ("context", estimate.context_bytes, _context_words(estimate)),
        ("device", estimate.device_bytes, "what nvidia-smi shows for the process"),
        ("limit", estimate.limit_bytes, limit),
        ("margin", estimate.margin_bytes, margin),
    ]
    cells = [(name, Span(format_bytes(size), bold=name == "device"), Span(text, MUTED)) for name, size, text in rows]
    title = f"Peak, in {PHASE_WORDS[estimate.peak_phase]}"
    return [*heading(title), *table((Column(), Column(right=True), Column(shrinks=True)), cells, width)]


def _context_words(estimate: "Estimate") -> str:
    """What the context is, and whose word that is."""
    if estimate.is_context_assumed:
        return "assumed, the largest of the bundled NVIDIA cards'"
    return "CUDA's own, outside the allocator" + ("" if estimate.plan.device.context is None else ", as stated")


def _aligned(sizes: Sequence[int]) -> list[str]:
    """Sizes for people, of one width."""
    texts = [format_bytes(size) for size in sizes]
    return [text.rjust(max(map(len, texts))) for text in texts]


def _changes(changes: "Changes", width: int, *, is_squeezed: bool) -> list[Line]:
    fit_words = "fit without squeezing" if is_squeezed else "fit"
    if changes.fitting:
        title = f"Any one of these makes it {fit_words}, the least intrusive first"
        shown = changes.fitting
    else:
        several = ", nor do several together" if changes.together is None else ""
        title = f"No single change makes it {fit_words}{several}; these save most"
        shown = changes.others
    if not shown:
        return heading(f"No single change makes it {fit_words}, and none that was tried saves anything")
    saved, left = _aligned([c.saved_bytes for c in shown]), _aligned([c.device_bytes for c in shown])
    rows = [(c.typed, f"saves {save}", f"→ {need}") for c, save, need in zip(shown, saved, left, strict=True)]
    lines = table((Column(), Column(right=True), Column(right=True)), rows, width)
    room = width - max(map(line_width, lines)) - 2
    if max(text_width(c.effect) for c in shown) <= room:
        lines = [(*line, Span("  "), Span(c.effect, MUTED)) for line, c in zip(lines, shown, strict=True)]
    else:
        effects = [(Span(f"      {fit(c.effect, width - 6)}", MUTED),) for c in shown]
        lines = [line for pair in zip(lines, effects, strict=True) for line in pair]
    together = changes.together
    if together is not None:
        words = f"{together.typed}: {together.effect}"
        need = f"saves {format_bytes(together.saved_bytes)} → {format_bytes(together.device_bytes)}"
        less = ", and give up less" if changes.fitting else ""
        lines += [*heading(f"Together these make it {fit_words}{less}"), *bullets([words, need], width)]
    return [*heading(title), *lines]


def _notes(estimate: "Estimate") -> list[str]:
    counts = f"{format_count(estimate.num_parameters)} parameters, {format_count(estimate.num_trainable)} trained"
    advice: list[str] = []
    if estimate.is_squeezed:
        advice.append(SQUEEZED)
    saving = estimate.expandable_saving_bytes
    if saving > 0.01 * estimate.reserved_bytes:
        advice.append(f"PYTORCH_ALLOC_CONF=expandable_segments:True would reserve {format_bytes(saving)} less.")
    modelled = f"Modelled: {estimate.implementation}."
    return [counts, *note_sentences(estimate.notes), *advice, f"{margin_words(estimate.margin)}.", modelled]
