"""Runs of events that each name one copy of one tensor: the requests that the caching allocator receives."""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Stretch(NamedTuple):
    """Events in a row, and how often the row of them happens.

    events: an array of type "i", with n where the copy of a tensor with number n is allocated and ~n where it is freed.
    times: how often the whole row happens, one time after the other. step: what is added to each n from one time to the
    next.
    """

    events: "array[int]"
    times: int = 1
    step: int = 0

    def each_time(self) -> Iterator[Sequence[int]]:
        """The events of each time in turn."""
        yield self.events
        for time in range(1, self.times):
            shift = time * self.step
            yield [event + shift if event >= 0 else event - shift for event in self.events]
