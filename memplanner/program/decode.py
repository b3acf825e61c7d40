"""Equal blocks spelled out: the one place that knows what a `Repeat` stands for.

A decoded program is a row of stretches. Their events name single tensors: tensor × 2^bits + copy, or ~ that where it is
freed. A stretch that happens several times in a row is written once, and each time is for the copy `step` further on.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from memplanner.program.program import Carried, Repeat, Structure
from memplanner.timeline import Phase


class Stretch(NamedTuple):
    """Events (type "i": n where n is allocated, ~n where it is freed), and how many times in a row they happen, each
    time to tensors whose numbers are higher by `step`.
    """

    events: "array[int]"
    times: int = 1
    step: int = 0


class Span(NamedTuple):
    """Events in a row inside one phase. tensors: i or ~i of tensor i, without saying which copy of it.

    times, step: see Stretch. copy: of the tensors that the events name, but for those at the places in `other_copies`.
    """

    phase: Phase
    tensors: tuple[int, ...]
    times: int = 1
    step: int = 0
    copy: int = 0
    other_copies: Mapping[int, int] = MappingProxyType({})

    def stretch(self, bits: int) -> Stretch:
        """The same with every copy named."""
        high = (1 << bits) - 1 - self.copy  # ~(i << bits | copy) is (~i << bits) + high
        events = array("i", [(t << bits) + (self.copy if t >= 0 else high) for t in self.tensors])
        for place, copy in self.other_copies.items():
            tensor = self.tensors[place]
            events[place] = tensor << bits | copy if tensor >= 0 else ~(~tensor << bits | copy)
        return Stretch(events, self.times, self.step)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A program's structure, spelled out. bits: of a copy's number."""

    bits: int
    spans: tuple[Span, ...]

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """The spans with every copy named."""
        return tuple(span.stretch(self.bits) for span in self.spans)

    @cached_property
    def left(self) -> Stretch:
        """Frees of what is made and not freed: a step leaves it to the next."""
        alive: dict[int, None] = {}
        for events, times, step in self.stretches:
            for n in range(times):
                for event in events:
                    if event >= 0:
                        alive[event + n * step] = None
                    else:
                        alive.pop(~event + n * step, None)
        return Stretch(array("i", [~number for number in alive]))

    def between(self, first: Phase | None, last: Phase | None) -> tuple[Stretch, ...]:
        """The stretches from the start of a phase to before another; None: from the start, to the end."""
        names = [span.phase for span in self.spans]
        start = 0 if first is None else names.index(first)
        end = len(names) if last is None else names.index(last)
        return self.stretches[start:end]


@lru_cache(maxsize=32)
def decoded(structure: Structure) -> Decoded:
    """The structure spelled out; programs that are alike in all but their sizes share it."""
    return _Decoder(structure).decoded()


class _Decoder:
    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.phase = structure.phases[0][0]
        self.made_by = {
            event: repeat.blocks
            for repeat in structure.repeats
            for event in structure.events[repeat.start : repeat.end]
            if event >= 0
        }
        """Tensors that blocks make, by the blocks' number."""
        self.left_over = {
            carried.given: repeat.times - 1 if carried.offset < 0 else 0
            for repeat in structure.repeats
            for carried in repeat.carried
        }
        """Of what one block gives to the next, the copy that nobody takes: the last block's, forward."""

    def decoded(self) -> Decoded:
        """All of it."""
        structure = self.structure
        repeats = {repeat.start: repeat for repeat in structure.repeats}
        inner = sorted({bound for repeat in structure.repeats for bound in (repeat.start, repeat.end)})
        ends = [position for _, position in structure.phases[1:]] + [len(structure.events)]
        spans: list[Span] = []
        for (phase, start), end in zip(structure.phases, ends, strict=True):
            self.phase = phase
            bounds = [start, *(bound for bound in inner if start < bound < end), end]
            for left, right in pairwise(bounds):
                repeat = repeats.get(left) if left < right else None
                spans += self.plain(left, right) if repeat is None else self.repeated(repeat)
        most = max((1, *structure.copies, *(repeat.times for repeat in structure.repeats)))
        return Decoded(bits=(most - 1).bit_length(), spans=tuple(spans))

    def plain(self, start: int, end: int) -> Iterator[Span]:
        """Events outside the blocks. Tensors of several copies that are made in a row are made copy by copy."""
        events, copies = self.structure.events, self.structure.copies
        single: list[int] = []
        left_over: dict[int, int] = {}
        position = start
        while position < end:
            event = events[position]
            position += 1
            if event < 0 and ~event in self.left_over:
                left_over[len(single)] = self.left_over[~event]
                single.append(event)
                continue
            count = copies[event if event >= 0 else ~event]
            if count == 1:
                single.append(event)
                continue
            group = [event]
            while event >= 0 and position < end and events[position] >= 0 and copies[events[position]] == count:
                group.append(events[position])
                position += 1
            if single:
                yield Span(self.phase, tuple(single), other_copies=left_over)
                single, left_over = [], {}
            yield Span(self.phase, tuple(group), count, 1)
        yield Span(self.phase, tuple(single), other_copies=left_over)

    def repeated(self, repeat: Repeat) -> Iterator[Span]:
        """One pass over equal blocks: the first, those between, which differ in the copy alone, and the last, which
        frees what comes from outside the blocks as well.
        """
        order = range(repeat.times - 1, -1, -1) if repeat.descending else range(repeat.times)
        taken = {carried.taken: carried for carried in repeat.carried}
        made_by, blocks = self.made_by, repeat.blocks
        last = self.structure.events[repeat.start : repeat.end]
        foreign = [n for n, e in enumerate(last) if e < 0 and (~e in taken or made_by.get(~e) != blocks)]
        outside = {n for n in foreign if ~last[n] not in taken}
        every = [e for n, e in enumerate(last) if n not in outside] if outside else last
        carried = [n for n, e in enumerate(every) if ~e in taken] if outside else foreign
        if repeat.times > 1:
            yield self.block(repeat, order[0], every, carried, taken)
        if repeat.times > 2:
            yield self.block(repeat, order[1], every, carried, taken)._replace(times=repeat.times - 2, step=order.step)
        yield self.block(repeat, order[-1], last, foreign, taken)

    def block(
        self, repeat: Repeat, number: int, events: Sequence[int], foreign: Iterable[int], taken: Mapping[int, Carried]
    ) -> Span:
        """The events of one block. foreign: the places of those that free what the block has not made."""
        tensors = list(events)
        copies: dict[int, int] = {}
        for place in foreign:
            tensor = ~events[place]
            carried = taken.get(tensor)
            if carried is not None and 0 <= number + carried.offset < repeat.times:
                tensors[place], copies[place] = ~carried.given, number + carried.offset
            else:  # from outside the blocks: of what other blocks give to each other, what is left over
                copies[place] = self.left_over.get(tensor, 0)
        for carried in repeat.carried:
            if carried.freed_at_end and 0 <= number + carried.offset < repeat.times:
                copies[len(tensors)] = number + carried.offset
                tensors.append(~carried.given)
        return Span(self.phase, tuple(tensors), copy=number, other_copies=copies)
