"""A step's log, in which equal blocks of a model are written down once, as the events of all of them.

The tape (memplanner.tape.engine) writes i where tensor i is allocated and ~i where it is freed. A tensor of a `Run`, a
part of the log that stands for several equal blocks of the model, has a copy in each of them.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memplanner.allocator.stretch import Stretch
from memplanner.tape.engine import Run


class Decoded(NamedTuple):
    """The events of one step. Copy number k of tensor i is the block with the number (i << bits) + k.

    before, after: the events up to the optimizer's update, and from there on. left: frees of what is still there at the
    end of the step; the next step frees it before it begins.
    """

    bits: int
    before: tuple[Stretch, ...]
    after: tuple[Stretch, ...]
    left: tuple[Stretch, ...]


def decode(log: Sequence[int], update: int, runs: Sequence[Run], reps: Sequence[int]) -> Decoded:
    """The events of a tape's log. update: the position in the log at which the update begins. runs, reps: the tape's,
    reps being how many copies each tensor has.
    """
    steps = _Log(log, runs, reps)
    before = tuple(stretch for stretch in steps.between(0, update) if stretch.events and stretch.times)
    after = tuple(stretch for stretch in steps.between(update, len(log)) if stretch.events and stretch.times)
    left = tuple(_freed(_still_there((*before, *after), steps.bits), steps.bits))
    return Decoded(steps.bits, before, after, left)


class _Log:
    """A log with what is needed to read it."""

    def __init__(self, log: Sequence[int], runs: Sequence[Run], reps: Sequence[int]) -> None:
        self.log = log
        self.runs = runs
        self.reps = reps
        self.bits = (max((1, *reps, *(run.reps for run in runs))) - 1).bit_length()
        """Bits for the number of a copy."""

    def between(self, start: int, end: int) -> Iterator[Stretch]:
        """The events from one position in the log to before another."""
        events = array("i")  # of tensors with one copy, since the last stretch
        log, reps, width = self.log, self.reps, 1 << self.bits
        begins = {run.start: (run, True) for run in self.runs}
        begins.update({run.back_start: (run, False) for run in self.runs if run.back_start >= 0})
        last = {run.output: run.reps - 1 for run in self.runs} | {run.grad_output: 0 for run in self.runs}
        copies = {i: run.reps for run in self.runs for i in self._born(run)}
        position = start
        while position < end:
            if position in begins:
                run, forward = begins.pop(position)
                yield Stretch(events)
                yield from self._repeated(run, width, forward=forward)
                events = array("i")
                position = run.end if forward else run.back_end
                continue
            i = log[position]
            stop = position + 1
            if i < 0:
                # Of frees in a row the order does not matter: afterwards the same memory is free. So those with the
                # same copies are put together.
                while stop < end and log[stop] < 0 and stop not in begins:
                    stop += 1
                freed: dict[int, list[int]] = {}
                for j in map(int.__invert__, log[position:stop]):
                    if j in last:  # of what one block hands to the next only the last copy is left
                        events.append(~(j * width + last[j]))
                    else:  # of what else a run made, every copy
                        freed.setdefault(copies.get(j, reps[j]), []).append(~(j * width))
                events.extend(freed.pop(1, ()))
                if freed:
                    yield Stretch(events)
                    events = array("i")
                    yield from (Stretch(array("i", firsts), count, 1) for count, firsts in freed.items())
            elif reps[i] == 1:
                events.append(i * width)
            else:
                # Tensors of equally many blocks of the model that are made in a row are made block by block.
                while stop < end and log[stop] >= 0 and reps[log[stop]] == reps[i] and stop not in begins:
                    stop += 1
                yield Stretch(events)
                yield Stretch(array("i", [j * width for j in log[position:stop]]), reps[i], 1)
                events = array("i")
            position = stop
        yield Stretch(events)

    def _born(self, run: Run) -> set[int]:
        """Tensors that a run makes in each of its blocks."""
        log = self.log
        born = {i for i in log[run.start : run.end] if i >= 0}
        return born | {i for i in log[run.back_start : run.back_end] if i >= 0} if run.back_start >= 0 else born

    def _repeated(self, run: Run, width: int, *, forward: bool) -> Iterator[Stretch]:
        """One direction of a run, block by block.

        The log has the walked block's events. Copies of what it makes itself differ from block to block. Its input is,
        for every block but the first, the output of the block before; the gradient that enters its backward is, for
        every block but the last, the one that leaves the backward of the block after. Tensors from outside that all
        blocks use are freed with the last block that uses them, in this direction.
        """
        last, own = run.reps - 1, self._born(run)
        closing = self.log[run.start : run.end] if forward else self.log[run.back_start : run.back_end]
        common = [i for i in closing if i >= 0 or ~i in own or ~i in (run.input, run.grad_input)]
        # With input_held something outside keeps the first block's input, so that the log does not have its free. Every
        # other block frees its own: in backward where its graph keeps the input for that (input_kept), else in forward.
        frees_output = run.input_held and run.input_kept is not forward

        def block(rep: int) -> "array[int]":
            first, final = (rep == 0, rep == last) if forward else (rep == last, rep == 0)
            events = array("i")
            for i in closing if final else common:
                if i >= 0:
                    events.append(i * width + rep)
                elif ~i == run.input:
                    events.append(~(run.output * width + rep - 1 if rep else self._outer(~i, width)))
                elif ~i in own:
                    events.append(~(~i * width + rep))
                elif ~i == run.grad_input and not first:
                    events.append(~(run.grad_output * width + rep + 1))
                else:
                    events.append(~self._outer(~i, width))
            if rep and frees_output:
                events.append(~(run.output * width + rep - 1))
            return events

        order = range(run.reps) if forward else range(last, -1, -1)
        yield Stretch(block(order[0]))
        if run.reps > 2:  # blocks that are neither the first nor the last differ in the number of the copy alone
            yield Stretch(block(order[1]), run.reps - 2, order.step)
        if run.reps > 1:
            yield Stretch(block(order[-1]))

    def _outer(self, index: int, width: int) -> int:
        """The block of a tensor from outside the run: the last copy of another run's output, else the first copy."""
        return index * width + next((run.reps - 1 for run in self.runs if run.output == index), 0)


def _still_there(stretches: Sequence[Stretch], bits: int) -> dict[int, int]:
    """Tensors of which copies are allocated and not freed: a number in which bit k is set for copy k."""
    allocated: dict[int, int] = {}
    freed: dict[int, int] = {}
    low = (1 << bits) - 1
    for events, times, step in stretches:
        copies = sum(1 << time * abs(step) for time in range(times))
        lowest = min(0, (times - 1) * step)
        for event in events:
            number, copies_of = (event, allocated) if event >= 0 else (~event, freed)
            tensor = number >> bits
            copies_of[tensor] = copies_of.get(tensor, 0) | (copies << ((number & low) + lowest))
    remaining = ((tensor, copies & ~freed.get(tensor, 0)) for tensor, copies in allocated.items())
    return {tensor: copies for tensor, copies in remaining if copies}


def _freed(tensors: dict[int, int], bits: int) -> Iterator[Stretch]:
    """Frees of those copies; tensors of which the same are left are put together."""
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
