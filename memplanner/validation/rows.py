"""What a validation consists of: comparisons of single figures, what could not be compared, and summaries."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from memplanner.measurement import Witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one run, predicted and measured or traced, in bytes. peer, peer_bytes: another tool and what it
    predicted.
    """

    id: str
    source: str
    gpu: str
    method: str
    metric: str
    """Which figure: "allocated", "reserved" or "device" for the peak of that kind; a phase for its own peak; a category
    for the bytes that outlive a step, or with " at peak" those alive at the peak."""
    predicted_bytes: int
    measured_bytes: int
    """What was measured; of a run on fake tensors, what was traced."""
    witness: Witness = "measured"
    in_sample: bool = False
    """Whether the run was looked at while the model was being made."""
    peer: str = ""
    peer_bytes: int | None = None

    @property
    def error(self) -> float:
        """(predicted − measured) / measured; infinite where nothing was there and something predicted."""
        return _error(self.predicted_bytes, self.measured_bytes)

    @property
    def peer_error(self) -> float | None:
        """The error of the other tool's prediction."""
        return None if self.peer_bytes is None else _error(self.peer_bytes, self.measured_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A run that was not compared, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """What a record says of a run that was compared."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A setting that a source does not state, and what was assumed for it."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The absolute errors of some rows in a few figures, as shares of what was measured. p95: the 95th percentile."""

    count: int
    mean: float
    median: float
    p95: float
    worst: float
    """The error that is largest in absolute value, with its sign."""
    peer_median: float | None = None
    peer_worst: float | None = None


@dataclass(slots=True)
class Validation:
    """Every comparison that was made, and what could not be compared."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    assumptions: list[Assumption] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    out_of_memory: list[str] = field(default_factory=list)
    """Runs that ran out of memory on their card: those that a false fit could be seen on."""
    false_fits: list[str] = field(default_factory=list)
    """Runs predicted to fit their card that ran out of memory on it."""
    false_alarms: list[str] = field(default_factory=list)
    """Runs predicted not to fit that completed."""

    def note_verdict(self, name: str, *, fits: bool, ran_out: bool) -> None:
        """A run that was predicted to fit or not, and that ran out of memory or completed."""
        if ran_out:
            self.out_of_memory.append(name)
        if fits == ran_out:
            (self.false_fits if ran_out else self.false_alarms).append(name)

    def groups(self) -> dict[str, Summary]:
        """Group ("source · gpu · method · metric", with "in sample" before the metric where it is) → its summary.

        Groups are in the order of the rows.
        """
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            sample = ["in sample"] if row.in_sample else []
            grouped.setdefault(" · ".join((row.source, row.gpu, row.method, *sample, row.metric)), []).append(row)
        return {name: summary(rows) for name, rows in grouped.items()}

    @property
    def witness(self) -> str:
        """What the predictions are compared with: "measured", "traced", or both."""
        return " or ".join(sorted({row.witness for row in self.rows})) or "measured"

    def by_metric(self, *, in_sample: bool | None = None) -> dict[str, Summary]:
        """Metric → its summary over everything, or over the runs in sample or out of it."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            if in_sample is None or row.in_sample == in_sample:
                grouped.setdefault(row.metric, []).append(row)
        return {name: summary(rows) for name, rows in grouped.items()}

    def beyond(self, tolerance: float) -> list[Row]:
        """Rows of the allocated peak that are off by more than the tolerance, worst first."""
        off = [row for row in self.rows if row.metric == "allocated" and abs(row.error) > tolerance]
        return sorted(off, key=lambda row: -abs(row.error))


def summary(rows: Sequence[Row]) -> Summary:
    """Summarise rows, of which there must be at least one."""
    errors = sorted(abs(row.error) for row in rows)
    peers = sorted(abs(row.peer_error) for row in rows if row.peer_error is not None)
    return Summary(
        count=len(rows),
        mean=statistics.fmean(errors),
        median=statistics.median(errors),
        p95=errors[max(0, math.ceil(0.95 * len(errors)) - 1)],
        worst=max((row.error for row in rows), key=abs),
        peer_median=statistics.median(peers) if peers else None,
        peer_worst=peers[-1] if peers else None,
    )


def _error(predicted: int, measured: int) -> float:
    if measured == 0:
        return 0.0 if predicted == 0 else math.inf
    return (predicted - measured) / measured


def merged(parts: Iterable[Validation]) -> Validation:
    """One validation with everything that the parts hold, in their order."""
    whole = Validation()
    for part in parts:
        for name in ("rows", "skipped", "assumptions", "remarks", "out_of_memory", "false_fits", "false_alarms"):
            getattr(whole, name).extend(getattr(part, name))
    return whole
