"""What is alive when: the peak of every phase, and the tensors that are there at any moment."""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, groupby
from operator import itemgetter
from typing import NamedTuple

from memplanner.program.decode import decoded
from memplanner.program.program import StepProgram
from memplanner.timeline import Phase


class Moment(NamedTuple):
    """A place in the step: after `position` events of a span, the `time`-th time that it happens."""

    span: int
    time: int
    position: int


class PhaseBytes(NamedTuple):
    """Bytes over what is there throughout the step: the most in a phase, what its end leaves, and when the most is
    first there.
    """

    name: Phase
    peak: int
    end: int
    moment: Moment


class Liveness:
    """Live bytes over a step, above what is there throughout the step.

    phases: every phase in order. skip: tensors that are left out, such as what only a refresh of the projections makes.
    """

    def __init__(self, program: StepProgram, *, skip: frozenset[int] = frozenset()) -> None:
        self._spans = decoded(program.structure).spans
        sizes = list(program.sizes)
        for index in skip:
            sizes[index] = 0
        # A birth is an index from the front, and a death, ~index, one from the back.
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
        """Spans of the same phase that follow each other are one."""
        for name, group in groupby(self._measured(), key=itemgetter(0)):
            spans = list(group)
            _, _, peak, _, *place = max(spans, key=itemgetter(2))
            yield PhaseBytes(name, peak, spans[-1][3], Moment(*place))

    def _measured(self) -> Iterator[tuple[Phase, int, int, int, int, int, int]]:
        """Every span: its phase, live bytes before, at the most and after, and where that is first so. A span that is
        repeated changes by the same amount each time, so that its first time or its last is the highest.
        """
        live = 0
        for number, (phase, tensors, times, *_) in enumerate(self._spans):
            prefix = self._prefix(tensors)
            net, top = prefix[-1], max(prefix)
            time = times - 1 if net > 0 else 0
            before, live = live, live + times * net
            yield phase, before, before + time * net + top, live, number, time, prefix.index(top)

    def _prefix(self, tensors: tuple[int, ...]) -> list[int]:
        """Bytes after each event, and before the first, over what there was before."""
        return list(accumulate(map(self._deltas.__getitem__, tensors), initial=0))

    def moments(self) -> Iterator[tuple[Phase, Moment, int]]:
        """Every moment in order: its phase, and the live bytes."""
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
