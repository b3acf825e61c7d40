"""Equal blocks spelled out: the one place that knows what a `Repeat` stands for.

A decoded program is a row of stretches. Their events name single tensors: tensor × 2^bits + copy, or ~ that where it is
freed. A stretch that happens several times in a row is written once, and each time is for the copy `step` further on.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
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


@dataclass(frozen=True)
class Span:
    """A stretch inside one phase. tensors: its events with the copy left out: i or ~i of tensor i."""

    phase: Phase
    stretch: Stretch
    tensors: "array[int]"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A program's structure, spelled out. bits: of a copy's number."""

    bits: int
    spans: tuple[Span, ...]

    @cached_property
    def left(self) -> Stretch:
        """Frees of what is made and not freed: a step leaves it to the next."""
        alive: dict[int, None] = {}
        for span in self.spans:
            events, times, step = span.stretch
            for n in range(times):
                for event in events:
                    if event >= 0:
                        alive[event + n * step] = None
                    else:
                        alive.pop(~event + n * step, None)
        return Stretch(array("i", [~number for number in alive]))

    def between(self, first: Phase | None, last: Phase | None) -> list[Stretch]:
        """The stretches from the start of a phase to before another; None: from the start, to the end."""
        names = [span.phase for span in self.spans]
        start = 0 if first is None else names.index(first)
        end = len(names) if last is None else names.index(last)
        return [span.stretch for span in self.spans[start:end]]


@lru_cache(maxsize=32)
def decoded(structure: Structure) -> Decoded:
    """The structure spelled out; programs that are alike in all but their sizes share it."""
    return _Decoder(structure).decoded()


class _Decoder:
    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.bits = (max((1, *structure.copies, *(r.times for r in structure.repeats))) - 1).bit_length()
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
        structure = self.structure
        repeats = {repeat.start: repeat for repeat in structure.repeats}
        inner = sorted({bound for repeat in structure.repeats for bound in (repeat.start, repeat.end)})
        ends = [position for _, position in structure.phases[1:]] + [len(structure.events)]
        spans: list[Span] = []
        for (phase, start), end in zip(structure.phases, ends, strict=True):
            bounds = [start, *(bound for bound in inner if start < bound < end), end]
            for left, right in pairwise(bounds):
                repeat = repeats.get(left) if left < right else None
                stretches = self.repeated(repeat) if repeat is not None else self.plain(left, right)
                spans += (self.span(phase, stretch) for stretch in stretches)
        return Decoded(bits=self.bits, spans=tuple(spans))

    def span(self, phase: Phase, stretch: Stretch) -> Span:
        bits = self.bits
        tensors = array("i", [e >> bits if e >= 0 else ~(~e >> bits) for e in stretch.events])
        return Span(phase, stretch, tensors)

    def plain(self, start: int, end: int) -> Iterator[Stretch]:
        """Events outside the blocks. Tensors of several copies that are made in a row are made copy by copy."""
        events, copies, bits = self.structure.events, self.structure.copies, self.bits
        single = array("i")
        position = start
        while position < end:
            event = events[position]
            position += 1
            tensor = event if event >= 0 else ~event
            if event < 0 and tensor in self.left_over:
                single.append(~self.outside(tensor))
                continue
            if copies[tensor] == 1:
                single.append(event << bits if event >= 0 else ~(tensor << bits))
                continue
            group = array("i", [event << bits if event >= 0 else ~(tensor << bits)])
            while event >= 0 and position < end and events[position] >= 0 and copies[events[position]] == copies[event]:
                group.append(events[position] << bits)
                position += 1
            if single:
                yield Stretch(single)
                single = array("i")
            yield Stretch(group, copies[tensor], 1)
        yield Stretch(single)

    def repeated(self, repeat: Repeat) -> Iterator[Stretch]:
        """One pass over equal blocks: the first, those between, which differ in the copy alone, and the last."""
        order = range(repeat.times - 1, -1, -1) if repeat.descending else range(repeat.times)
        yield Stretch(self.block(repeat, order[0], is_last=repeat.times == 1))
        if repeat.times > 2:
            yield Stretch(self.block(repeat, order[1], is_last=False), repeat.times - 2, order.step)
        if repeat.times > 1:
            yield Stretch(self.block(repeat, order[-1], is_last=True))

    def block(self, repeat: Repeat, number: int, *, is_last: bool) -> "array[int]":
        """The events of one block. What comes from outside all blocks is freed in the last."""
        bits, made_by = self.bits, self.made_by
        taken = {carried.taken: carried for carried in repeat.carried}
        events = array("i")
        for event in self.structure.events[repeat.start : repeat.end]:
            if event >= 0:
                events.append(event << bits | number)
                continue
            tensor = ~event
            carried = taken.get(tensor)
            if carried is not None:
                events.append(~self.taken(carried, repeat, number))
            elif made_by.get(tensor) == repeat.blocks:
                events.append(~(tensor << bits | number))
            elif is_last:
                events.append(~self.outside(tensor))
        for carried in repeat.carried:
            if carried.freed_at_end and self.has_neighbour(carried, repeat, number):
                events.append(~self.taken(carried, repeat, number))
        return events

    def has_neighbour(self, carried: Carried, repeat: Repeat, number: int) -> bool:
        return 0 <= number + carried.offset < repeat.times

    def taken(self, carried: Carried, repeat: Repeat, number: int) -> int:
        """What a block takes: its neighbour's, or what comes from outside."""
        if self.has_neighbour(carried, repeat, number):
            return carried.given << self.bits | (number + carried.offset)
        return self.outside(carried.taken)

    def outside(self, tensor: int) -> int:
        """A tensor as what lies outside its blocks sees it: of what one block gives to the next, what is left over."""
        return tensor << self.bits | self.left_over.get(tensor, 0)
