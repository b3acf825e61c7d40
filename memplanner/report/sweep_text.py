"""`memplanner sweep`: one line per combination, as text, Markdown, CSV and JSON."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from memplanner.frozen import Frozen
from memplanner.report.as_json import Lazily, json_chunks
from memplanner.report.layout import BLANK, Column, Line, Span, paragraph, section, table_that_fits
from memplanner.report.markdown import escape, markdown_table
from memplanner.report.notes import assumed_context
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import PHASE_WORDS, verdict_word
from memplanner.units import format_bytes

if TYPE_CHECKING:
    from memplanner.report.terminal import Page
    from memplanner.solve.sweep import Axis, Point, Sweep

SHOWN = 40
"""Lines up to which text shows all plans by default, and more than which it never shows of the frontier."""
AFTER = ("", "Device", "To spare", "Live", "Peak in")
ABOUT_FRONTIER = "none of them has more of one setting without less of another"


class SweepAnswer(Frozen):
    """What `sweep` has to say; `label` says where the plan came from that the axes are laid over. show: which plans
    text and Markdown list; strict: a tight fit is none.
    """

    sweep: "Sweep"
    label: str
    show: str | None = None
    strict: bool = False

    def chosen(self) -> tuple[Sequence["Point"], str]:
        """The points to list, and the heading over them."""
        points = self.sweep.points
        show = self.show or ("all" if len(points) <= SHOWN else "frontier")
        if show == "all":
            return points, "All plans"
        if show == "fits":
            return self.sweep.fitting(strict=self.strict), "Plans that fit"
        frontier = self.sweep.frontier(strict=self.strict)
        return frontier, f"The frontier: {len(frontier):,} that fit; {ABOUT_FRONTIER}"


class PointsAnswer(Frozen):
    """The points of a sweep with these axes, one after the other, each of which is wanted once."""

    axes: Sequence["Axis"]
    points: Iterable["Point"]


def axis_title(axis: "Axis") -> str:
    """A column's title: "--batch-size" as "Batch size"."""
    words = axis.name.removeprefix("--").replace("-", " ")
    return "GPU" if words == "gpu" else words.capitalize()


def value_text(value: str | bool) -> str:
    """An axis's value in a cell."""
    return {True: "yes", False: "no", "": "–"}.get(value) or str(value)


def headline(sweep: "Sweep") -> str:
    """How many there are and how many fit."""
    fits = len(sweep.fitting())
    squeezed = sum(point.is_squeezed for point in sweep.points)
    tight = sum(point.verdict == "tight" for point in sweep.points) - squeezed
    plans = "plan fits" if len(sweep.points) == 1 else f"of {len(sweep.points):,} plans fit"
    more = f", {squeezed:,} more only by squeezing the allocator" if squeezed else ""
    return f"{fits:,} {plans}" + (f", {tight:,} of them tight" if tight else "") + more


def rows_of(points: Sequence["Point"]) -> list[tuple[str, ...]]:
    """The cells of the points' lines."""
    return [
        (
            *(value_text(value) for value in point.values),
            verdict_word(point),
            ("" if point.device_bytes is not None else "≥ ") + format_bytes(point.least_device_bytes),
            ("" if point.device_bytes is not None else "≤ ") + format_bytes(point.margin_bytes),
            format_bytes(point.live_bytes),
            PHASE_WORDS[point.peak_phase],
        )
        for point in points
    ]


def notes_of(sweep: "Sweep", listed: Sequence["Point"]) -> list[str]:
    """What the reader should know: what was left out, and what the signs mean."""
    notes = [f"{count:,} left out: {reason}" for reason, count in sweep.skipped.items()]
    if any(point.device_bytes is None for point in listed):
        notes.append("≥: tensors and context alone are above the limit; what the allocator adds was not worked out")
    notes += dict.fromkeys(assumed_context(point.context_bytes) for point in listed if point.is_context_assumed)
    return notes


def sweep_text(answer: SweepAnswer, page: "Page") -> str:
    """The answer for people."""
    sweep, width = answer.sweep, page.width
    points, title = answer.chosen()
    listed = points if answer.show else points[:SHOWN]
    notes = notes_of(sweep, listed)
    if len(points) > len(listed):
        notes.insert(0, f"{len(points) - len(listed):,} more: --show frontier lists them, --format csv has all")
    return page.write(
        [
            (Span(headline(sweep).upper(), bold=True),),
            *paragraph(f"Plan: {answer.label}.", width, rest="  "),
            BLANK,
            *paragraph(title, width, bold=True),
            *(_table(sweep, listed, width) if listed else [(Span("  none"),)]),
            *section("Notes", notes, width),
        ]
    )


def _table(sweep: "Sweep", points: Sequence["Point"], width: int) -> list[Line]:
    """The axes, verdict and device always; of the rest as much as there is room for."""
    n = len(sweep.axes)
    columns = [Column(title=t, right=i not in (n, n + 4) and _right(sweep, i)) for i, t in enumerate(_titles(sweep))]
    rows = [
        [Span(text, VERDICT_COLOURS[point.verdict] if i == n else "") for i, text in enumerate(row)]
        for point, row in zip(points, rows_of(points), strict=True)
    ]
    return table_that_fits(columns, rows, width, least=n + 2)


def _titles(sweep: "Sweep") -> list[str]:
    return [*(axis_title(axis) for axis in sweep.axes), *AFTER]


def _right(sweep: "Sweep", column: int) -> bool:
    """Whether a column holds numbers."""
    if column >= len(sweep.axes):
        return True
    return all(isinstance(v, str) and v.isdigit() for v in sweep.axes[column].values)


def sweep_markdown(answer: SweepAnswer, page: "Page") -> str:
    """The same as Markdown."""
    sweep = answer.sweep
    points, title = answer.chosen()
    listed = points if answer.show else points[:SHOWN]
    rows = [[escape(text) for text in row] for row in rows_of(listed)]
    lines = [f"**{headline(sweep)}**", "", f"Plan: {escape(answer.label)}. {escape(title)}.", ""]
    lines += markdown_table(_titles(sweep), rows, right_from=len(sweep.axes) + 1)
    return "\n".join([*lines, "", *(f"- {escape(note)}" for note in notes_of(sweep, listed))]).rstrip() + "\n"


def _key(axis: "Axis") -> str:
    return axis.name.removeprefix("--").replace("-", "_")


def _record(axes: Sequence["Axis"], point: "Point") -> dict[str, str | int | bool | None]:
    """One point's fields, as CSV and JSON have them."""
    settings = {_key(axis): value for axis, value in zip(axes, point.values, strict=True)}
    return {
        **{key: int(v) if isinstance(v, str) and v.isascii() and v.isdigit() else v for key, v in settings.items()},
        "verdict": point.verdict,
        "squeezed": point.is_squeezed,
        "live_bytes": point.live_bytes,
        "allocated_bytes": point.allocated_bytes,
        "reserved_bytes": point.reserved_bytes,
        "context_bytes": point.context_bytes,
        "device_bytes": point.device_bytes,
        "least_device_bytes": point.least_device_bytes,
        "limit_bytes": point.limit_bytes,
        "peak_phase": point.peak_phase,
        "trainable": point.trainable,
        "context_assumed": point.is_context_assumed,
    }


class _Returned:
    """A file for csv.writer, whose writerow returns what a file's write does: here the line."""

    def write(self, line: str) -> str:
        return line


def points_csv(answer: PointsAnswer, page: "Page") -> Iterator[str]:
    """Every point, a line each. Empty cells are null in JSON: what was not worked out, or a setting there is not."""
    writer = csv.writer(_Returned(), lineterminator="\n")
    is_first = True
    for point in answer.points:
        record = _record(answer.axes, point)
        if is_first:
            yield str(writer.writerow(record))
            is_first = False
        yield str(writer.writerow(record.values()))
    if is_first:
        yield str(writer.writerow(_key(axis) for axis in answer.axes))


def sweep_json(answer: SweepAnswer, page: "Page") -> Iterator[str]:
    """Every point, which are on the frontier, and what was left out."""
    sweep = answer.sweep
    best = {id(point) for point in sweep.frontier(strict=answer.strict)}
    return json_chunks(
        {
            "schema": "memplanner/sweep/1",
            "axes": [{"name": _key(axis), "values": list(axis.values)} for axis in sweep.axes],
            "points": Lazily(sweep.points, lambda point: {**_record(sweep.axes, point), "frontier": id(point) in best}),
            "skipped": [{"reason": reason, "count": count} for reason, count in sweep.skipped.items()],
        }
    )
