"""What is alive when: the peak of every phase, and the tensors that are alive at any moment."""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, groupby
from operator import itemgetter
from typing import NamedTuple

from memplanner.program.decode import decoded
from memplanner.program.program import StepProgram
from memplanner.timeline import Phase


class Moment(NamedTuple):
    """A point in the step: after `position` events of a span, when it happens for the `time`-th time (from 0)."""

    span: int
    time: int
    position: int


class PhaseBytes(NamedTuple):
    """Live bytes of a phase above those that are there throughout the step: the most, those at its end, and the moment
    when the most is first reached.
    """

    name: Phase
    peak: int
    end: int
    moment: Moment


class Liveness:
    """Live bytes in the course of a step, above those that are there throughout.

    phases: every phase in order. skip: tensors to leave out, such as those that only a refresh of projections makes.
    """

    def __init__(self, program: StepProgram, *, skip: frozenset[int] = frozenset()) -> None:
        self._spans = decoded(program.structure).spans
        sizes = list(program.sizes)
        for index in skip:
            sizes[index] = 0
        # Event i indexes this list from the front. A free, ~i, is negative and indexes it from the back.
        self._deltas = [*sizes, *(-size for size in reversed(sizes))]
        self._skip = skip
        self.phases = tuple(self._phases())

    def turning_points(self) -> Iterator[tuple[Phase, Moment, int]]:
        """The first, the highest and the last moment of every span of the decoded program, with their live bytes."""
        for phase, before, top, after, *place in self._measured():
            span = self._spans[place[0]]
            yield phase, Moment(place[0], 0, 0), before
            yield phase, Moment(*place), top
            yield phase, Moment(place[0], span.times - 1, len(span.tensors)), after

    def _phases(self) -> Iterator[PhaseBytes]:
        """Join the spans of each phase."""
        for name, group in groupby(self._measured(), key=itemgetter(0)):
            spans = list(group)
            _, _, peak, _, *place = max(spans, key=itemgetter(2))
            yield PhaseBytes(name, peak, spans[-1][3], Moment(*place))

    def _measured(self) -> Iterator[tuple[Phase, int, int, int, int, int, int]]:
        """Every span: its phase, the live bytes before it, at its highest moment and after it, and that moment. Each
        time that a span is repeated the live bytes change by the same amount, so that its highest moment is in the
        first time or in the last.
        """
        live = 0
        for number, (phase, tensors, times, *_) in enumerate(self._spans):
            prefix = self._prefix(tensors)
            net, top = prefix[-1], max(prefix)
            time = times - 1 if net > 0 else 0
            before, live = live, live + times * net
            yield phase, before, before + time * net + top, live, number, time, prefix.index(top)

    def _prefix(self, tensors: tuple[int, ...]) -> list[int]:
        """The change of live bytes before the first event (0) and after each event."""
        return list(accumulate(map(self._deltas.__getitem__, tensors), initial=0))

    def moments(self) -> Iterator[tuple[Phase, Moment, int]]:
        """Every moment of the step in order, with its phase and its live bytes."""
        live = 0
        for number, span in enumerate(self._spans):
            prefix = self._prefix(span.tensors)
            for time in range(span.times):
                for position, size in enumerate(prefix):
                    yield span.phase, Moment(number, time, position), live + size
                live += prefix[-1]

    def alive(self, moment: Moment) -> dict[int, int]:
        """How many of each tensor are alive at the moment, in the order in which they were first made."""
        counts: Counter[int] = Counter()
        for span in self._spans[: moment.span]:
            _count(counts, span.tensors, span.times)
        tensors = self._spans[moment.span].tensors
        if moment.time:
            _count(counts, tensors, moment.time)
        _count(counts, tensors[: moment.position], 1)
        return {tensor: count for tensor, count in counts.items() if count > 0 and tensor not in self._skip}


def _count(counts: Counter[int], tensors: tuple[int, ...], times: int) -> None:
    for event in tensors:
        if event >= 0:
            counts[event] += times
        else:
            counts[~event] -= times
