"""What a validation consists of: comparisons of single figures, what could not be compared, and summaries."""

import math
import statistics
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, overload

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


class Rows(Sequence[Row]):
    """Very many rows, in a few tens of bytes each: the figures in columns, and what a run's rows have in common once.
    A row is made when it is asked for.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[str, str, str, str, Witness, bool, str]] = []
        self._metrics: dict[str, int] = {}
        self._names: list[str] = []
        self._run, self._metric = array("I"), array("I")
        self._predicted, self._measured, self._peer = _Sizes(), _Sizes(), _Sizes()

    def __len__(self) -> int:
        return len(self._run)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        name, source, gpu, method, witness, in_sample, peer = self._runs[self._run[index]]
        predicted, measured = self._predicted[index], self._measured[index]
        assert predicted is not None
        assert measured is not None
        return Row(
            id=name,
            source=source,
            gpu=gpu,
            method=method,
            metric=self._names[self._metric[index]],
            predicted_bytes=predicted,
            measured_bytes=measured,
            witness=witness,
            in_sample=in_sample,
            peer=peer,
            peer_bytes=self._peer[index],
        )

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    def __iadd__(self, rows: Iterable[Row]) -> "Rows":
        self.extend(rows)
        return self

    def extend(self, rows: Iterable[Row]) -> None:
        """Add rows; those of one run one after another."""
        for row in rows:
            run = (row.id, row.source, row.gpu, row.method, row.witness, row.in_sample, row.peer)
            if not self._runs or self._runs[-1] != run:
                self._runs.append(run)
            metric = self._metrics.setdefault(row.metric, len(self._metrics))
            if metric == len(self._names):
                self._names.append(row.metric)
            self._run.append(len(self._runs) - 1)
            self._metric.append(metric)
            self._predicted.append(row.predicted_bytes)
            self._measured.append(row.measured_bytes)
            self._peer.append(row.peer_bytes)


class _Sizes:
    """Numbers of bytes, or None, in eight bytes each; those that eight do not hold stand beside the others."""

    _NONE: Final = -1
    _BEYOND: Final = -2

    def __init__(self) -> None:
        self._values = array("q")
        self._beyond: dict[int, int] = {}

    def append(self, size: int | None) -> None:
        if size is not None and not 0 <= size < 1 << 63:
            self._beyond[len(self._values)] = size
            size = self._BEYOND
        self._values.append(self._NONE if size is None else size)

    def __getitem__(self, index: int) -> int | None:
        value = self._values[index]
        if value >= 0:
            return value
        return None if value == self._NONE else self._beyond[index % len(self._values)]


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

    rows: Rows = field(default_factory=Rows)
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
        return self._summaries(
            " · ".join((row.source, row.gpu, row.method, *(["in sample"] if row.in_sample else []), row.metric))
            for row in self.rows
        )

    @property
    def witness(self) -> str:
        """What the predictions are compared with: "measured", "traced", or both."""
        return " or ".join(sorted({row.witness for row in self.rows})) or "measured"

    def by_metric(self, *, in_sample: bool | None = None) -> dict[str, Summary]:
        """Metric → its summary over everything, or over the runs in sample or out of it."""
        return self._summaries(
            row.metric if in_sample is None or row.in_sample == in_sample else None for row in self.rows
        )

    def _summaries(self, names: Iterable[str | None]) -> dict[str, Summary]:
        """The summary of each group of rows. names: each row's group, None where it is in none."""
        grouped: dict[str, array[int]] = {}
        for index, name in enumerate(names):
            if name is not None:
                grouped.setdefault(name, array("I")).append(index)
        return {name: summary(map(self.rows.__getitem__, indices)) for name, indices in grouped.items()}

    def beyond(self, tolerance: float) -> list[Row]:
        """Rows of the allocated peak that are off by more than the tolerance, worst first."""
        off = [row for row in self.rows if row.metric == "allocated" and abs(row.error) > tolerance]
        return sorted(off, key=lambda row: -abs(row.error))


def summary(rows: Iterable[Row]) -> Summary:
    """Summarise rows, of which there must be at least one."""
    signed, peers = array("d"), array("d")
    for row in rows:
        signed.append(row.error)
        if row.peer_error is not None:
            peers.append(abs(row.peer_error))
    errors, peers = array("d", sorted(map(abs, signed))), array("d", sorted(peers))
    return Summary(
        count=len(errors),
        mean=statistics.fmean(errors),
        median=statistics.median(errors),
        p95=errors[max(0, math.ceil(0.95 * len(errors)) - 1)],
        worst=max(signed, key=abs),
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
