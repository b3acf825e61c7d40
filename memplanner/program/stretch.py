"""Events of a training step, each of one tensor's one copy: what the caching allocator is asked for."""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Stretch(NamedTuple):
    """Events that follow each other, and how often they happen in a row.

    events: an array of type "i" with n where tensor copy n is allocated and ~n where it is freed. times: how often all
    of the events happen, one time after the other. step: what is added to the numbers from one time to the next.
    """

    events: "array[int]"
    times: int = 1
    step: int = 0

    def each_time(self) -> Iterator[Sequence[int]]:
        """The events of the first time, of the second, and so on."""
        yield self.events
        for time in range(1, self.times):
            shift = time * self.step
            yield [event + shift if event >= 0 else event - shift for event in self.events]
