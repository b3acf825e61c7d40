"""`memplanner profile` for people: what was measured or traced, laid over what was predicted."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from memplanner.frozen import Frozen
from memplanner.report.as_json import indented_json
from memplanner.report.check_text import of_plan
from memplanner.report.layout import BLANK, Column, Line, Span, heading, paragraph, section, table
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import PHASE_WORDS, plan_words
from memplanner.timeline import CATEGORIES, Category, Phase
from memplanner.units import format_bytes, format_count

if TYPE_CHECKING:
    from memplanner.measurement import Measurement, PhaseRecord
    from memplanner.prediction.estimate import Estimate
    from memplanner.report.terminal import Page

WHERE = {"fake": "on fake tensors", "cpu": "on the CPU", "cuda": "on CUDA"}
_ENDINGS = {
    "completed": "COMPLETED",
    "out-of-memory": "RAN OUT OF MEMORY",
    "cannot-be-built": "CANNOT RUN",
    "failed": "FAILED",
}


class RunAnswer(Frozen):
    """What `profile` has to say of one run. `estimate` is the plan's prediction, where there is a plan; `label` says
    where the plan came from.
    """

    record: "Measurement"
    estimate: "Estimate | None"
    label: str


class SuiteAnswer(Frozen):
    """What `profile` has to say of several. left: how many were not begun; out: where the records are, or "". stale:
    whose record from before was not up to date, and why.
    """

    records: "Sequence[Measurement]"
    left: int
    out: str
    stale: Sequence[str] = ()


def profile_json(answer: RunAnswer, page: "Page") -> str:
    """The record as it is kept."""
    return answer.record.dump()


def profile_text(answer: RunAnswer, page: "Page") -> str:
    """The whole report of one run."""
    record, estimate, width = answer.record, answer.estimate, page.width
    lines = _verdict(record, width)
    if record.plan is not None:
        lines += of_plan(plan_words(record.plan), answer.label, width)
    else:
        lines += paragraph(f"Of: {answer.label}.", width, rest="  ")
    if record.phases:
        lines += [*_phases(record, estimate, width), *_at_peak(record, estimate, width)]
    return page.write([*lines, *section("Notes", _notes(record, estimate), width)])


def _verdict(record: "Measurement", width: int) -> list[Line]:
    where = record.environment.gpu or WHERE[record.backend]
    text = f"{_ENDINGS[record.outcome.status]} {'on ' if record.environment.gpu else ''}{where}"
    peak = record.peak
    if record.outcome.status == "completed" and peak is not None:
        text += f": {format_bytes(peak.peak_bytes)} allocated at the peak, in {PHASE_WORDS[peak.name]}"
    elif record.outcome.phase is not None:
        text += f" in {PHASE_WORDS[record.outcome.phase]}"
    if record.outcome.message:
        text += f": {record.outcome.message}"
    colour = VERDICT_COLOURS["fits" if record.outcome.status == "completed" else "does-not-fit"]
    return paragraph(text, width, rest="  ", colour=colour, bold=True)


def _phases(record: "Measurement", estimate: "Estimate | None", width: int) -> list[Line]:
    predicted = {} if estimate is None else estimate.phase_peaks(on_cuda=record.backend == "cuda")
    timed = any(p.seconds is not None for p in record.phases)
    reserved = any(p.reserved_bytes is not None for p in record.phases)
    columns = [Column(title="Peak of"), Column(title=record.witness.capitalize(), right=True)]
    if predicted:
        columns += [Column(title="Predicted", right=True), Column(title="Error", right=True)]
    columns += [Column(title="Reserved", right=True)] * reserved + [Column(title="Time", right=True)] * timed
    rows = [_phase_row(p, predicted, reserved=reserved, timed=timed) for p in record.phases]
    if all(p.name != "forward" for p in record.phases):  # an entry point's model does not say where its loss begins
        rows = [["forward and loss" if row[0] == "loss" else row[0], *row[1:]] for row in rows]
    return [*heading("Phases"), *table(columns, rows, width)]


def _phase_row(
    phase: "PhaseRecord", predicted: Mapping[Phase, int], *, reserved: bool, timed: bool
) -> list[str | Span]:
    row: list[str | Span] = [PHASE_WORDS[phase.name], Span(format_bytes(phase.peak_bytes), bold=True)]
    if predicted:
        expected = predicted.get(phase.name)
        row += ["–", "–"] if expected is None else [format_bytes(expected), _error(expected, phase.peak_bytes)]
    if reserved:
        row.append("–" if phase.reserved_bytes is None else format_bytes(phase.reserved_bytes))
    if timed:
        row.append("–" if phase.seconds is None else f"{phase.seconds * 1000:.1f} ms")
    return row


def _error(predicted: int, taken: int) -> str:
    return f"{(predicted - taken) / taken:+.2%}" if taken else "–"


def _at_peak(record: "Measurement", estimate: "Estimate | None", width: int) -> list[Line]:
    peak = record.peak
    if peak is None or not peak.at_peak:
        return []
    predicted: dict[Category, int] = {}
    if estimate is not None and estimate.peak_phase == peak.name:
        predicted = estimate.at_peak
    rows = []
    for category in CATEGORIES:
        taken, estimated = peak.at_peak.get(category, 0), predicted.get(category, 0)
        if taken or estimated:
            row = [category.replace("_", " "), format_bytes(taken)]
            rows.append([*row, format_bytes(estimated)] if predicted else row)
    columns = [Column(title="Alive at the peak"), Column(title=record.witness.capitalize(), right=True)]
    columns += [Column(title="Predicted", right=True)] * bool(predicted)
    return [BLANK, *table(columns, rows, width)]


def _notes(record: "Measurement", estimate: "Estimate | None") -> list[str]:
    notes = []
    if record.num_parameters:
        notes.append(f"{format_count(record.num_parameters)} parameters, {format_count(record.num_trainable)} trained")
    if record.step_seconds is not None:
        text = f"a step takes {record.step_seconds:.3g} s"
        if record.tokens_per_second:
            text += f", {record.tokens_per_second:.4g} tokens/s"
        if record.refresh_seconds is not None:
            text += f"; one that recomputes subspaces {record.refresh_seconds:.3g} s, with the bookkeeping of phases"
        notes.append(text)
    if record.context_bytes is not None:
        notes.append(f"{format_bytes(record.context_bytes)} outside the allocator (CUDA context, loaded kernels)")
    if record.phases and record.backend != "cuda" and estimate is not None and estimate.workspace_bytes:
        notes.append("the predictions here leave out cuBLAS's workspaces, which only CUDA has")
    if record.backend == "cpu" and record.plan is not None and record.phases:
        notes.append("some CPU kernels keep other tensors than CUDA's: --device fake follows CUDA")
    if record.rank_evidence:
        notes.append(_evidence(record))
    return notes


def _evidence(record: "Measurement") -> str:
    """The median share of gradient energy by rank."""
    ranks: dict[int, list[float]] = {}
    for weight in record.rank_evidence:
        for rank, share in weight.energy.items():
            ranks.setdefault(int(rank), []).append(share)
    medians = {rank: sorted(shares)[len(shares) // 2] for rank, shares in sorted(ranks.items())}
    shown = ", ".join(f"{share:.1%} at rank {rank}" for rank, share in medians.items() if rank in (1, 8, 64, 256))
    return f"gradient energy held, median of {len(record.rank_evidence)} weights: {shown}"


def suite_json(answer: SuiteAnswer, page: "Page") -> str:
    """The records as they are kept, in a list."""
    return indented_json([json.loads(record.dump()) for record in answer.records])


def suite_text(answer: SuiteAnswer, page: "Page") -> str:
    """One line per record, what kept the others from completing, and how many there are of each ending."""
    records, width = answer.records, page.width
    lines = _suite_table(records, width) if records else []
    stopped = [record for record in records if record.outcome.status != "completed"]
    lines += heading("Not completed") if stopped else []
    for record in stopped:
        lines += paragraph(f"{record.id}: {record.outcome.message}", width, first="  ", rest="    ")
    remarks = [record for record in records if record.outcome.status == "completed" and record.outcome.message]
    lines += section("Completed, but", [f"{record.id}: {record.outcome.message}" for record in remarks], width)
    lines += section("Records that were not up to date", answer.stale, width)
    counts = Counter(_status(record) for record in records)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items()) or "Nothing ran"
    ended += f", {answer.left} left for another run" if answer.left else ""
    lines += [BLANK, *paragraph(f"{ended}.", width)]
    return page.write([*lines, *(paragraph(f"Records in {answer.out}.", width) if answer.out else ())])


def _suite_table(records: "Sequence[Measurement]", width: int) -> list[Line]:
    rows: list[list[str | Span]] = []
    for record in records:
        peak = record.peak if record.outcome.status == "completed" else None
        rows.append(
            [
                record.id,
                Span("–" if peak is None else format_bytes(peak.peak_bytes), bold=True),
                "–" if peak is None else "refresh" if peak.name == "refresh" else PHASE_WORDS[peak.name],
                "–" if record.step_seconds is None else f"{record.step_seconds:.3g} s",
                _status(record) if peak is None else "",
            ]
        )
    columns = (
        Column(title="Plan", shrinks=True),
        Column(title="Allocated", right=True),
        Column(title="Peak in"),
        Column(title="Step", right=True),
        Column(),
    )
    return table(columns, rows, width, indent=0)


def _status(record: "Measurement") -> str:
    outcome = record.outcome
    words = {"out-of-memory": "out of memory", "cannot-be-built": "cannot run"}.get(outcome.status, outcome.status)
    in_phase = outcome.status == "out-of-memory" and outcome.phase is not None
    return f"{words} in {PHASE_WORDS[outcome.phase]}" if in_phase and outcome.phase is not None else words
