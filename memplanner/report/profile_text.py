"""`memplanner profile` for people: what was measured, laid over what was predicted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import PHASE_WORDS, plan_words
from memplanner.report.terminal import Cell, Column, Page, heading, table, wrap
from memplanner.timeline import CATEGORIES, Category, Phase
from memplanner.units import format_bytes, format_count

if TYPE_CHECKING:
    from memplanner.measurement import Measurement, PhaseRecord
    from memplanner.prediction.estimate import Estimate

WHERE = {"fake": "on fake tensors", "cpu": "on the CPU", "cuda": "on CUDA"}
_ENDINGS = {
    "completed": "COMPLETED",
    "out-of-memory": "RAN OUT OF MEMORY",
    "cannot-be-built": "CANNOT RUN",
    "failed": "FAILED",
}


def profile_text(record: "Measurement", estimate: "Estimate | None", page: Page, *, label: str) -> str:
    """The whole report of one run. `estimate` is the plan's prediction, where there is a plan."""
    lines = [*_verdict(record, page)]
    if record.plan is not None:
        lines += wrap(plan_words(record.plan), page.width, rest="  ")
    lines += wrap(f"{'Plan' if record.plan is not None else 'Of'}: {label}.", page.width, rest="  ")
    if record.phases:
        absent = _absent(record, estimate)
        lines += _phases(record, estimate, absent, page)
        lines += _at_peak(record, estimate, page)
    lines += _notes(record, estimate, page)
    return "\n".join(lines) + "\n"


def _verdict(record: "Measurement", page: Page) -> list[str]:
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
    return [page.paint(line, colour, bold=True) for line in wrap(text, page.width, rest="  ")]


def _absent(record: "Measurement", estimate: "Estimate | None") -> int:
    """Bytes of the prediction that this backend does not have: cuBLAS workspaces, without CUDA."""
    if estimate is None or record.backend == "cuda":
        return 0
    return estimate.workspace_bytes


def _phases(record: "Measurement", estimate: "Estimate | None", absent: int, page: Page) -> list[str]:
    predicted = {} if estimate is None else {p.name: p.peak_bytes for p in estimate.phases}
    timed = any(p.seconds is not None for p in record.phases)
    reserved = any(p.reserved_bytes is not None for p in record.phases)
    columns = [Column(title="Peak of"), Column(title="Measured", right=True)]
    if predicted:
        columns += [Column(title="Predicted", right=True), Column(title="Error", right=True)]
    columns += [Column(title="Reserved", right=True)] * reserved + [Column(title="Time", right=True)] * timed
    rows = [_phase_row(p, predicted, absent, reserved=reserved, timed=timed) for p in record.phases]
    if all(p.name != "forward" for p in record.phases):  # an entry point's model does not say where its loss begins
        rows = [["forward and loss" if row[0] == "loss" else row[0], *row[1:]] for row in rows]
    return [*heading(page, "Phases"), *table(page, columns, rows)]


def _phase_row(
    phase: "PhaseRecord", predicted: Mapping[Phase, int], absent: int, *, reserved: bool, timed: bool
) -> list[str | Cell]:
    row: list[str | Cell] = [PHASE_WORDS[phase.name], Cell(text=format_bytes(phase.peak_bytes), bold=True)]
    if predicted:
        expected = predicted.get(phase.name)
        if expected is None:
            row += ["–", "–"]
        else:
            expected -= absent if phase.name != "load" else 0
            row += [format_bytes(expected), _error(expected, phase.peak_bytes)]
    if reserved:
        row.append("–" if phase.reserved_bytes is None else format_bytes(phase.reserved_bytes))
    if timed:
        row.append("–" if phase.seconds is None else f"{phase.seconds * 1000:.1f} ms")
    return row


def _error(predicted: int, measured: int) -> str:
    return f"{(predicted - measured) / measured:+.2%}" if measured else "–"


def _at_peak(record: "Measurement", estimate: "Estimate | None", page: Page) -> list[str]:
    peak = record.peak
    if peak is None or not peak.at_peak:
        return []
    predicted: dict[Category, int] = {}
    if estimate is not None and estimate.peak_phase == peak.name:
        predicted = estimate.at_peak
    rows = []
    for category in CATEGORIES:
        found, expected = peak.at_peak.get(category, 0), predicted.get(category, 0)
        if found or expected:
            row = [category.replace("_", " "), format_bytes(found)]
            rows.append([*row, format_bytes(expected)] if predicted else row)
    columns = [Column(title="Alive at the peak"), Column(title="Measured", right=True)]
    columns += [Column(title="Predicted", right=True)] * bool(predicted)
    return ["", *table(page, columns, rows)]


def _notes(record: "Measurement", estimate: "Estimate | None", page: Page) -> list[str]:
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
    if record.phases and _absent(record, estimate):
        notes.append("the predictions here leave out cuBLAS's workspaces, which only CUDA has")
    if record.backend == "cpu" and record.plan is not None and record.phases:
        notes.append("some CPU kernels keep other tensors than CUDA's: --device fake follows CUDA")
    if record.rank_evidence:
        notes.append(_evidence(record))
    if not notes:
        return []
    return [*heading(page, "Notes"), *(line for n in notes for line in wrap(n, page.width, first="  - ", rest="    "))]


def _evidence(record: "Measurement") -> str:
    """The median share of gradient energy by rank."""
    ranks: dict[int, list[float]] = {}
    for weight in record.rank_evidence:
        for rank, share in weight.energy.items():
            ranks.setdefault(int(rank), []).append(share)
    medians = {rank: sorted(shares)[len(shares) // 2] for rank, shares in sorted(ranks.items())}
    shown = ", ".join(f"{share:.1%} at rank {rank}" for rank, share in medians.items() if rank in (1, 8, 64, 256))
    return f"gradient energy held, median of {len(record.rank_evidence)} weights: {shown}"


def suite_text(records: "Sequence[Measurement]", page: Page, *, left: int, out: str) -> str:
    """One line per record, what kept the others from completing, and how many there are of each ending."""
    rows: list[list[str | Cell]] = []
    for record in records:
        peak = record.peak if record.outcome.status == "completed" else None
        rows.append(
            [
                Cell(text=record.id),
                Cell(text="–" if peak is None else format_bytes(peak.peak_bytes), bold=True),
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
    lines = table(page, columns, rows, indent=0) if rows else []
    stopped = [record for record in records if record.outcome.status != "completed"]
    if stopped:
        lines += heading(page, "Not completed")
        for record in stopped:
            lines += wrap(f"{record.id}: {record.outcome.message}", page.width, first="  ", rest="    ")
    counts = Counter(_status(record) for record in records)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items())
    lines += ["", *wrap(f"{ended or 'Nothing ran'}{f', {left} left for another run' if left else ''}.", page.width)]
    if out:
        lines += wrap(f"Records in {out}.", page.width)
    return "\n".join(lines) + "\n"


def _status(record: "Measurement") -> str:
    outcome = record.outcome
    words = {"out-of-memory": "out of memory", "cannot-be-built": "cannot run"}.get(outcome.status, outcome.status)
    in_phase = outcome.status == "out-of-memory" and outcome.phase is not None
    return f"{words} in {PHASE_WORDS[outcome.phase]}" if in_phase and outcome.phase is not None else words
