"""`memplanner validate`: errors by group, the worst rows, what was left out; as text, Markdown or JSON."""

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from memplanner.frozen import Frozen
from memplanner.report.as_json import Lazily, json_chunks
from memplanner.report.layout import Column, Line, Span, heading, paragraph, section, table
from memplanner.report.markdown import escape
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.report.terminal import Page
    from memplanner.validation.rows import Row, Summary, Validation

SCHEMA = "memplanner/validation/1"
WORST = 10


def percent(error: float, *, signed: bool = True) -> str:
    """0.0004 as "+0.04%"."""
    if math.isinf(error):
        return "none there"
    return f"{error:+.2%}" if signed else f"{error:.2%}"


class ValidationAnswer(Frozen):
    """What `validate` has to say. tolerance: the share by which an allocated peak may be off."""

    validation: "Validation"
    tolerance: float


def validate_text(answer: ValidationAnswer, page: "Page") -> str:
    """The whole report."""
    validation, tolerance, width = answer.validation, answer.tolerance, page.width
    beyond = validation.beyond(tolerance)
    colour = VERDICT_COLOURS["fits" if not beyond else "does-not-fit"]
    worst = max((abs(r.error) for r in validation.rows if r.metric == "allocated"), default=0.0)
    first = f"{'WITHIN' if not beyond else 'BEYOND'} {tolerance:.2%} of the allocated peak: {_runs(validation)}, "
    first += f"worst {worst:.2%}"
    unseen = validation.by_metric(in_sample=False).get("allocated")
    if unseen is not None and any(row.in_sample for row in validation.rows):
        first += f"; out of sample {_counted(unseen.count)}, worst {abs(unseen.worst):.2%}"
    if validation.out_of_memory:
        first += f"; {_false_fits(validation)}"
    texts: dict[str, list[str]] = {}
    for assumption in validation.assumptions:
        texts.setdefault(assumption.text, []).append(assumption.id)
    return page.write(
        [
            *paragraph(first, width, rest="  ", colour=colour, bold=True),
            *_groups(validation, width),
            *_worst(validation, width),
            *section("Left out", [f"{s.id}: {s.reason}" for s in validation.skipped], width),
            *section("Remarks", [f"{r.id}: {r.text}" for r in validation.remarks], width),
            *section("Assumed", [f"{text} ({_counted(len(ids))})" for text, ids in texts.items()], width),
            *section("Predicted to fit, ran out of memory", validation.false_fits, width),
            *section("Predicted not to fit, did", validation.false_alarms, width),
        ]
    )


def _runs(validation: "Validation") -> str:
    """How much was compared."""
    return f"{_counted(len({row.id for row in validation.rows}), 'run')}, {_counted(len(validation.rows), 'figure')}"


def _false_fits(validation: "Validation") -> str:
    """Of what could have shown one."""
    could = _counted(len(validation.out_of_memory))
    return f"{_counted(len(validation.false_fits), 'false fit')} among {could} that ran out of memory"


def _counted(count: int, what: str = "run") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _shortened(name: str, width: int = 36) -> str:
    """A long name by its end, where runs of a kind differ."""
    return name if len(name) <= width else f"{name[:5]}…{name[6 - width :]}"


def _groups(validation: "Validation", width: int) -> list[Line]:
    lines: list[Line] = []
    groups: dict[str, list[tuple[str, Summary]]] = {}
    for name, summary in validation.groups().items():
        where, _, metric = name.rpartition(" · ")
        groups.setdefault(where, []).append((metric, summary))
    for where, summaries in groups.items():
        peers = any(s.peer_worst is not None for _, s in summaries)
        rows = [_group_row(metric, s, peers=peers) for metric, s in summaries]
        columns = [Column(title="Figure", shrinks=True), Column(title="Runs", right=True)]
        columns += [Column(title=t, right=True) for t in ("Median", "95%", "Worst")]
        columns += [Column(title=t, right=True) for t in ("Peer's median", "worst")] if peers else []
        lines += [*heading(where), *table(columns, rows, width)]
    return lines


def _group_row(metric: str, s: "Summary", *, peers: bool) -> list[str | Span]:
    row: list[str | Span] = [metric, str(s.count), percent(s.median, signed=False), percent(s.p95, signed=False)]
    row.append(Span(percent(s.worst), bold=metric == "allocated"))
    if peers:
        none = s.peer_median is None or s.peer_worst is None
        row += (
            ["", ""] if none else [percent(s.peer_median or 0, signed=False), percent(s.peer_worst or 0, signed=False)]
        )
    return row


def worst_rows(rows: "Sequence[Row]", count: int = WORST) -> "list[Row]":
    """The rows that are furthest off, one per run and metric, worst first."""
    return heapq.nsmallest(count, (r for r in rows if r.error), key=lambda row: -abs(row.error))


def _worst(validation: "Validation", width: int) -> list[Line]:
    rows = [
        (_shortened(r.id), r.metric, format_bytes(r.predicted_bytes), format_bytes(r.measured_bytes), percent(r.error))
        for r in worst_rows(validation.rows)
    ]
    if not rows:
        return []
    columns = (
        Column(title="Run", shrinks=True),
        Column(title="Figure"),
        *(Column(title=t, right=True) for t in ("Predicted", validation.witness.capitalize(), "Error")),
    )
    return [*heading("Furthest off"), *table(columns, rows, width)]


def validate_json(answer: ValidationAnswer, page: "Page") -> Iterator[str]:
    """The JSON answer; its names are fixed."""
    validation = answer.validation
    return json_chunks(
        {
            "schema": SCHEMA,
            "tolerance": answer.tolerance,
            "within_tolerance": not validation.beyond(answer.tolerance),
            "rows": Lazily(validation.rows, _row),
            "skipped": [{"id": s.id, "reason": s.reason} for s in validation.skipped],
            "remarks": [{"id": r.id, "text": r.text} for r in validation.remarks],
            "assumptions": [{"id": a.id, "text": a.text} for a in validation.assumptions],
            "summary": {
                "by_group": {name: _summary(s) for name, s in validation.groups().items()},
                "by_metric": {name: _summary(s) for name, s in validation.by_metric().items()},
                "out_of_sample": {name: _summary(s) for name, s in validation.by_metric(in_sample=False).items()},
                "out_of_memory": len(validation.out_of_memory),
                "false_fits": len(validation.false_fits),
                "false_alarms": len(validation.false_alarms),
            },
        }
    )


def _row(r: "Row") -> dict[str, Any]:
    return {
        "id": r.id,
        "source": r.source,
        "gpu": r.gpu,
        "method": r.method,
        "metric": r.metric,
        "predicted_bytes": r.predicted_bytes,
        "measured_bytes": r.measured_bytes,
        "witness": r.witness,
        "in_sample": r.in_sample,
        "error": _finite(r.error),
        "peer": r.peer or None,
        "peer_predicted_bytes": r.peer_bytes,
        "peer_error": _finite(r.peer_error),
    }


def _summary(s: "Summary") -> dict[str, Any]:
    return {
        "count": s.count,
        "mean": _finite(s.mean),
        "median": _finite(s.median),
        "p95": _finite(s.p95),
        "worst": _finite(s.worst),
        "peer_median": _finite(s.peer_median),
        "peer_worst": _finite(s.peer_worst),
    }


def _finite(error: float | None) -> float | None:
    """JSON has no infinity."""
    return None if error is None or math.isinf(error) else error


def validate_markdown(answer: ValidationAnswer, page: "Page") -> str:
    """As Markdown, for a job's summary."""
    validation = answer.validation
    state = "within" if not validation.beyond(answer.tolerance) else "**beyond**"
    lines = [
        f"Allocated peaks are {state} {answer.tolerance:.2%}: {_runs(validation)}, {_false_fits(validation)}.",
        "",
        "| group | figure | runs | mean | median | 95% | worst | peer's median | peer's worst |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, s in validation.groups().items():
        where, _, metric = name.rpartition(" · ")
        peers = [percent(e, signed=False) if e is not None else "" for e in (s.peer_median, s.peer_worst)]
        shown = [percent(e, signed=False) for e in (s.mean, s.median, s.p95)]
        cells = [escape(where), escape(metric), str(s.count), *shown, percent(s.worst), *peers]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Furthest off:", "", f"| run | figure | predicted | {validation.witness} | error |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    for r in worst_rows(validation.rows):
        cells = [escape(r.id), escape(r.metric), format_bytes(r.predicted_bytes), format_bytes(r.measured_bytes)]
        lines.append(f"| {' | '.join([*cells, percent(r.error)])} |")
    if validation.skipped:
        lines += ["", "Left out:", "", *(f"- {escape(s.id)}: {escape(s.reason)}" for s in validation.skipped)]
    if validation.remarks:
        lines += ["", "Remarks:", "", *(f"- {escape(r.id)}: {escape(r.text)}" for r in validation.remarks)]
    return "\n".join(lines) + "\n"
