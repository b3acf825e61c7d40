"""From allocated to reserved: the walk's log, every repetition spelled out, run through the caching allocator.

The allocator's two pools share nothing but the device's memory. As long as that suffices, each is replayed by itself,
and remembered: of plans that differ in rank or in batch, one of the two is often the same.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain, groupby, repeat
from operator import attrgetter
from typing import Any

from memplanner.allocator import native
from memplanner.allocator.pool import Stretch, segment_bytes, spelled_out
from memplanner.allocator.reference import SMALL_LIMIT, Block, CachingAllocator
from memplanner.step.walk import Held, Holdings, Walk
from memplanner.tape.engine import Run, Tape

_LATE = ("gradients", "optimizer_state", "projectors")
"""Categories of held tensors that the first step makes, before its update."""
_fields_of = attrgetter(*(field.name for field in fields(Run)))


@lru_cache(maxsize=8)
def reserved_peak(
    walked: Walk, *, expandable_segments: bool = False, max_split_size: int | None = None, limit: int | None = None
) -> int:
    """The most bytes of segments in two steps, the first of which makes the optimizer's states.

    limit: bytes that the device gives; DeviceFullError where no return of unused segments makes the steps fit.
    """
    if limit is None and not expandable_segments and max_split_size is None:
        return sum(_pool_bytes(_request(walked, small=small), small=small) for small in (True, False))
    request = _request(walked)
    with suppress(OverflowError):
        return request.replayed_in_c(
            expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit
        )
    allocator = CachingAllocator(expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit)
    sizes = request.blocks()
    blocks: dict[int, Block] = {}
    told = spelled_out(request.stretches(), sizes)
    for event in chain.from_iterable(events for events, times in told for _ in range(times)):
        if event >= 0:
            blocks[event] = allocator.allocate(sizes[event])
        else:
            allocator.release(blocks.pop(~event))
    return allocator.peak_reserved


@lru_cache(maxsize=1 << 11)
def _pool_bytes(request: "_Request", *, small: bool) -> int:
    with suppress(OverflowError):
        return request.replayed_in_c()
    return segment_bytes(request.stretches(), request.blocks(), small=small)


def forget() -> None:
    """Drop what is remembered of earlier plans, for an honest timing."""
    reserved_peak.cache_clear()
    _pool_bytes.cache_clear()
    _standing.cache_clear()
    _story.cache_clear()
    _steps.cache_clear()
    _known_steps.cache_clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """All that an allocator's answer depends on. sizes: bytes of the log's tensors, 0 for what it has nothing to do
    with. early, late: bytes of the tensors that stay, made before the first step and before its update.
    """

    steps: "_Steps"
    sizes: tuple[int, ...]
    early: tuple[int, ...]
    late: tuple[int, ...]

    def stretches(self) -> list[Stretch]:
        """Two steps. The blocks that stay are numbered after the log's."""
        story = _story(self.steps)
        first = len(self.sizes) << story.bits
        second = first + len(self.early)
        early, late = _allocated(first, second), _allocated(second, second + len(self.late))
        return [early, *story.before, late, *story.after, story.left, *story.before, *story.after]

    def blocks(self) -> list[int]:
        """Every block's bytes."""
        copies = chain.from_iterable(map(repeat, self.sizes, repeat(1 << _story(self.steps).bits)))
        return [*copies, *self.early, *self.late]

    def replayed_in_c(self, **options: Any) -> int:
        """What the replay in C says; OverflowError where it has no room for the sizes, or is not there."""
        bits = _story(self.steps).bits
        held = sum(self.early) + sum(self.late)
        if not native.is_available() or (sum(self.sizes) << bits) + held > native.LARGEST:
            raise OverflowError
        return native.peak_reserved(self.stretches(), self.sizes, (*self.early, *self.late), bits=bits, **options)


def _request(walked: Walk, *, small: bool | None = None) -> _Request:
    """What the walk asks of one of the pools, or of the whole allocator (None)."""
    early, late = _standing(walked.held, small)
    return _Request(steps=_steps(walked.tape), sizes=tuple(_own(walked.tape.sizes, small)), early=early, late=late)


def _own(sizes: Sequence[int], small: bool | None) -> Sequence[int]:
    """Without what is another pool's."""
    return sizes if small is None else [size if (size <= SMALL_LIMIT) == small else 0 for size in sizes]


@lru_cache(maxsize=64)
def _standing(holdings: Holdings, small: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes of the blocks that stay, early and late. Equal blocks of a model are made one after the other."""
    found: tuple[list[Held], list[Held]] = [], []
    for tensor in holdings:
        found[tensor.category in _LATE].append(tensor)

    def blocks(tensors: list[Held]) -> Iterator[int]:
        for count, group in groupby(tensors, lambda h: h.count):
            yield from [size for size in _own([h.block_bytes // count for h in group], small) if size] * count

    early, late = found
    return tuple(blocks(early)), tuple(blocks(late))


@lru_cache(maxsize=8)
def _steps(tape: Tape) -> "_Steps":
    update = next(position for name, position in tape.phases if name == "update")
    return _known_steps(tuple(tape.log), update, tuple(_fields_of(run) for run in tape.runs), tuple(tape.reps))


@lru_cache(maxsize=32)
def _known_steps(
    log: tuple[int, ...], update: int, runs: tuple[tuple[Any, ...], ...], reps: tuple[int, ...]
) -> "_Steps":
    """Steps that are alike are one and the same, and compared and hashed as such."""
    return _Steps(log=log, update=update, runs=runs, reps=reps)


@lru_cache(maxsize=64)
def _allocated(first: int, end: int) -> Stretch:
    """Blocks that are numbered in a row."""
    return Stretch(array("i", range(first, end)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Story:
    """A step, its repetitions spelled out. A block's number is its tensor's × 2^bits + the repetition.

    before, after: events up to the update and from it on. left: frees of what a step leaves to the next.
    """

    bits: int
    before: list[Stretch]
    after: list[Stretch]
    left: Stretch


@lru_cache(maxsize=32)
def _story(steps: "_Steps") -> _Story:
    before = [*steps.between(0, steps.update)]
    after = [*steps.between(steps.update, len(steps.log))]
    events = dict.fromkeys(event for s in (*before, *after) for part in s.one_by_one() for event in part)
    left = array("i", [~event for event in events if event >= 0 and ~event not in events])
    return _Story(bits=steps.bits, before=before, after=after, left=Stretch(left))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Steps:
    """A walk's log without its sizes. update: where the optimizer's step begins. runs: each as a tuple."""

    log: tuple[int, ...]
    update: int
    runs: tuple[tuple[Any, ...], ...]
    reps: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Bits that the most repetitions of anything take."""
        return (max(1, *self.reps, *(int(run[0]) for run in self.runs)) - 1).bit_length()

    def between(self, start: int, end: int) -> Iterator[Stretch]:
        """The events from one place in the log to before another."""
        stretch = array("i")
        log, reps, width = self.log, self.reps, 1 << self.bits
        runs = [Run(*fields) for fields in self.runs]
        begins = {run.start: (run, True) for run in runs}
        begins.update({run.back_start: (run, False) for run in runs if run.back_start >= 0})
        last = {run.output: run.reps - 1 for run in runs} | {run.grad_output: 0 for run in runs}
        copies = {i: run.reps for run in runs for i in self._born(run)}
        position = start
        while position < end:
            if position in begins:
                run, forward = begins.pop(position)
                yield Stretch(stretch)
                yield from self._repeated(run, width, forward=forward)
                stretch = array("i")
                position = run.end if forward else run.back_end
                continue
            i = log[position]
            if i < 0:
                # of what one block hands to the next only the last is left; of what else a run made, every copy
                which = (last[~i],) if ~i in last else range(copies.get(~i, reps[~i]))
                stretch.extend(~(~i * width + rep) for rep in which)
                position += 1
                continue
            # tensors of as many blocks that are made in a row are made block by block
            stop = position + 1
            while stop < end and log[stop] >= 0 and reps[log[stop]] == reps[i] > 1 and stop not in begins:
                stop += 1
            stretch.extend(j * width + rep for rep in range(reps[i]) for j in log[position:stop])
            position = stop
        yield Stretch(stretch)

    def _born(self, run: Run) -> set[int]:
        """Tensors that a run makes in each of its blocks."""
        log = self.log
        born = {i for i in log[run.start : run.end] if i >= 0}
        return born | {i for i in log[run.back_start : run.back_end] if i >= 0} if run.back_start >= 0 else born

    def _repeated(self, run: Run, width: int, *, forward: bool) -> Iterator[Stretch]:
        """One direction of a run, block by block. Blocks other than the one next to the outside take their input from,
        and give their gradient to, a neighbour. What all blocks share goes with the last.
        """
        last, own = run.reps - 1, self._born(run)
        closing = self.log[run.start : run.end] if forward else self.log[run.back_start : run.back_end]
        common = [i for i in closing if i >= 0 or ~i in own or ~i in (run.input, run.grad_input)]
        frees_output = run.input_held and run.input_kept is not forward  # every block but the first, at its end

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
        if run.reps > 2:  # blocks that are neither the first nor the last differ in the repetition alone
            yield Stretch(block(order[1]), run.reps - 2, order.step)
        if run.reps > 1:
            yield Stretch(block(order[-1]))

    def _outer(self, index: int, width: int) -> int:
        """The block of a tensor from outside the run: of another run's output the last repetition, else the first."""
        runs = (Run(*fields) for fields in self.runs)
        return index * width + next((run.reps - 1 for run in runs if run.output == index), 0)
