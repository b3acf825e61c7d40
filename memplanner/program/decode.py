"""Decodes a program's equal blocks: the one place that knows what a `Repeat` stands for.

A decoded program is a row of stretches. Each of their events names one copy of one tensor: tensor × 2^bits + copy where
it is allocated, ~ of that number where it is freed. A stretch that happens several times in a row is written once; from
one time to the next the copies that its events name are `step` further on.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from types import MappingProxyType
from typing import NamedTuple

from memplanner.frozen import Frozen
from memplanner.program.program import Carried, Repeat, Structure
from memplanner.program.stretch import Stretch
from memplanner.timeline import Phase


class Span(NamedTuple):
    """Events in a row inside one phase. tensors: i where tensor i is allocated, ~i where it is freed, without its copy.

    copy: the copy that the events are about, except those at the positions in `other_copies`, which has the copies of
    these. times, step: as in Stretch.
    """

    phase: Phase
    tensors: tuple[int, ...]
    times: int = 1
    step: int = 0
    copy: int = 0
    other_copies: Mapping[int, int] = MappingProxyType({})

    def stretch(self, bits: int) -> Stretch:
        """The span as a stretch, whose events name the copies as well."""
        high = (1 << bits) - 1 - self.copy  # ~(i << bits | copy) is (~i << bits) + high
        events = array("i", [(t << bits) + (self.copy if t >= 0 else high) for t in self.tensors])
        for place, copy in self.other_copies.items():
            tensor = self.tensors[place]
            events[place] = tensor << bits | copy if tensor >= 0 else ~(~tensor << bits | copy)
        return Stretch(events, self.times, self.step)


class Decoded(Frozen):
    """A decoded structure. bits: how many bits of an event's number are the copy's."""

    bits: int
    spans: tuple[Span, ...]

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """The spans as stretches, whose events name the copies as well."""
        return tuple(span.stretch(self.bits) for span in self.spans)

    @cached_property
    def left(self) -> tuple[Stretch, ...]:
        """Frees of the tensors that the step allocates and does not free; the next step begins with them."""
        return tuple(_freed(_still_there(self.stretches, self.bits), self.bits))

    def between(self, first: Phase | None, last: Phase | None) -> tuple[tuple[Phase, Stretch], ...]:
        """The stretches from phase `first` on and before phase `last`, each with its phase; None stands for the step's
        start or end.
        """
        names = [span.phase for span in self.spans]
        start = 0 if first is None else names.index(first)
        end = len(names) if last is None else names.index(last)
        phases = zip(names[start:end], self.stretches[start:end], strict=True)
        return tuple((phase, stretch) for phase, stretch in phases if stretch.events)


@lru_cache(maxsize=32)
def decoded(structure: Structure) -> Decoded:
    """The decoded structure; cached, since programs that differ in their sizes alone have equal structures."""
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
        """Tensor that a block makes → the number of its blocks."""
        self.left_over = {
            carried.output: repeat.times - 1 if carried.offset < 0 else 0
            for repeat in structure.repeats
            for carried in repeat.carried
        }
        """Output of a block → the copy that no neighbour reads: in forward the last block's."""

    def decoded(self) -> Decoded:
        """Decode the whole structure, phase by phase."""
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
        """Decode events outside the blocks, where a tensor of several copies means all of them. Neighbouring births of
        such tensors happen copy by copy. Neighbouring frees may happen in any order, and are grouped by their number
        of copies.
        """
        events, copies = self.structure.events, self.structure.copies
        single: list[int] = []
        left_over: dict[int, int] = {}
        for are_births, group in groupby(events[start:end], key=(0).__le__):
            together: dict[int, list[int]] = {}
            for count, alike in groupby(group, key=lambda e: copies[e] if e >= 0 else copies[~e]):
                for event in alike:
                    if count == 1:
                        single.append(event)
                    elif ~event in self.left_over:
                        left_over[len(single)] = self.left_over[~event]
                        single.append(event)
                    else:
                        together.setdefault(count, []).append(event)
                if are_births and together:
                    if single:
                        yield Span(self.phase, tuple(single), other_copies=left_over)
                        single, left_over = [], {}
                    yield Span(self.phase, tuple(together.pop(count)), count, 1)
            if together:
                yield Span(self.phase, tuple(single), other_copies=left_over)
                single, left_over = [], {}
                yield from (Span(self.phase, tuple(frees), count, 1) for count, frees in together.items())
        yield Span(self.phase, tuple(single), other_copies=left_over)

    def repeated(self, repeat: Repeat) -> Iterator[Span]:
        """Decode one pass over equal blocks: the first block, those between, which differ in nothing but the copy, and
        the last, which alone frees tensors from outside the blocks.
        """
        order = range(repeat.times - 1, -1, -1) if repeat.descending else range(repeat.times)
        links = {carried.input: carried for carried in repeat.carried}
        made_by, blocks = self.made_by, repeat.blocks
        last = self.structure.events[repeat.start : repeat.end]
        foreign = [n for n, e in enumerate(last) if e < 0 and (~e in links or made_by.get(~e) != blocks)]
        outside = {n for n in foreign if ~last[n] not in links}
        every = [e for n, e in enumerate(last) if n not in outside] if outside else last
        carried = [n for n, e in enumerate(every) if ~e in links] if outside else foreign
        if repeat.times > 1:
            yield self.block(repeat, order[0], every, carried, links)
        if repeat.times > 2:
            yield self.block(repeat, order[1], every, carried, links)._replace(times=repeat.times - 2, step=order.step)
        yield self.block(repeat, order[-1], last, foreign, links)

    def block(
        self, repeat: Repeat, number: int, events: Sequence[int], foreign: Iterable[int], links: Mapping[int, Carried]
    ) -> Span:
        """The events of one block. foreign: the positions of frees of tensors that this block has not made. links: what
        blocks hand on, by the input that the block at the edge reads from outside.
        """
        tensors = list(events)
        copies: dict[int, int] = {}
        for place in foreign:
            tensor = ~events[place]
            carried = links.get(tensor)
            if carried is not None and 0 <= number + carried.offset < repeat.times:
                tensors[place], copies[place] = ~carried.output, number + carried.offset
            else:  # from outside these blocks; where other blocks made it, the copy that none of them read
                copies[place] = self.left_over.get(tensor, 0)
        for carried in repeat.carried:
            if carried.freed_at_end and 0 <= number + carried.offset < repeat.times:
                copies[len(tensors)] = number + carried.offset
                tensors.append(~carried.output)
        return Span(self.phase, tuple(tensors), copy=number, other_copies=copies)


def _still_there(stretches: Sequence[Stretch], bits: int) -> dict[int, int]:
    """Tensor → its copies that are allocated and not freed, as a number in which bit k stands for copy k."""
    allocated: dict[tuple[int, int], set[int]] = {}
    freed: dict[tuple[int, int], set[int]] = {}
    for events, times, step in stretches:
        row = times, abs(step)  # of copies, of which the numbers name the lowest
        lowest = min(0, (times - 1) * step)
        allocated.setdefault(row, set()).update([event + lowest for event in events if event >= 0])
        freed.setdefault(row, set()).update([~event + lowest for event in events if event < 0])
    # Most rows are freed as they were allocated, which leaves few to look at copy by copy.
    gone = _copies({row: freed[row] - allocated[row] for row in freed}, bits)
    remaining = _copies({row: allocated[row] - freed[row] for row in allocated}, bits)
    left = ((tensor, copies & ~gone.get(tensor, 0)) for tensor, copies in sorted(remaining.items()))
    return {tensor: copies for tensor, copies in left if copies}


def _copies(rows: Mapping[tuple[int, int], Iterable[int]], bits: int) -> dict[int, int]:
    """Tensor → its copies in the rows, each of so many copies, a step apart, from the named one on."""
    copies: dict[int, int] = {}
    low = (1 << bits) - 1
    for (times, step), numbers in rows.items():
        row = sum(1 << time * step for time in range(times))
        for number in numbers:
            tensor = number >> bits
            copies[tensor] = copies.get(tensor, 0) | row << (number & low)
    return copies


def _freed(tensors: dict[int, int], bits: int) -> Iterator[Stretch]:
    """Frees of these copies (as in `_still_there`); tensors with the same copies left are freed in one stretch."""
    alike: dict[int, list[int]] = {}
    for tensor, copies in tensors.items():
        alike.setdefault(copies, []).append(tensor << bits)
    for copies, firsts in alike.items():
        shift = 0
        while copies:
            gap = (copies & -copies).bit_length() - 1
            copies >>= gap
            shift += gap
            count = (~copies & (copies + 1)).bit_length() - 1
            yield Stretch(array("i", [~(first + shift) for first in firsts]), count, 1)
            copies >>= count
            shift += count
