"""From allocated to reserved: the walk's log, every repetition spelled out, run through the caching allocator.

The allocator's two pools share nothing but the device's memory. As long as that suffices, each is replayed by itself,
and remembered: of plans that differ in rank or in batch, one of the two is often the same.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain, groupby, repeat
from operator import attrgetter
from typing import Any

from memplanner.prediction import compiled
from memplanner.prediction.allocator import SMALL_LIMIT, Block, CachingAllocator
from memplanner.prediction.pool import Stretch, segment_bytes
from memplanner.prediction.walk import Walk
from memplanner.tape.engine import Run

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
    stretches = request.stretches()
    if (packed := request.packed()) is not None:
        return compiled.peak_reserved(
            stretches, packed, expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit
        )
    allocator = CachingAllocator(expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit)
    sizes = request.blocks()
    blocks: dict[int, Block] = {}
    for event in chain.from_iterable(events for events, times in stretches for _ in range(times)):
        if event >= 0:
            blocks[event] = allocator.allocate(sizes[event])
        else:
            allocator.release(blocks.pop(~event))
    return allocator.peak_reserved


@lru_cache(maxsize=1 << 11)
def _pool_bytes(request: "_Request", *, small: bool) -> int:
    if (packed := request.packed()) is not None:
        return compiled.peak_reserved(request.stretches(), packed)
    return segment_bytes(request.stretches(), request.blocks(), small=small)


def forget() -> None:
    """Drop what is remembered of earlier plans, for an honest timing."""
    reserved_peak.cache_clear()
    _pool_bytes.cache_clear()
    _spelled_out.cache_clear()


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
        story = _spelled_out(self.steps)
        first = len(self.sizes) * story.width
        second = first + len(self.early)
        early, late = ((array("i", range(a, b)), 1) for a, b in ((first, second), (second, second + len(self.late))))
        return [early, *story.before, late, *story.after, (story.left, 1), *story.before, *story.after]

    def blocks(self) -> list[int]:
        """Every block's bytes."""
        copies = chain.from_iterable(map(repeat, self.sizes, repeat(_spelled_out(self.steps).width)))
        return [*copies, *self.early, *self.late]

    def packed(self) -> "array[int] | None":
        """The same for the compiled replay; None where there is none, or where they are too large for it."""
        width = _spelled_out(self.steps).width
        if not compiled.is_available() or sum(self.sizes) * width + sum(self.early) + sum(self.late) > compiled.LARGEST:
            return None
        words = array("q", self.sizes).tobytes()
        packed = array("q", b"".join(words[i : i + 8] * width for i in range(0, len(words), 8)))
        packed.extend(self.early)
        packed.extend(self.late)
        return packed


def _request(walked: Walk, *, small: bool | None = None) -> _Request:
    """What the walk asks of one of the pools, or of the whole allocator (None)."""
    tape = walked.tape

    def asked(sizes: list[int]) -> list[int]:
        return sizes if small is None else [size if (size <= SMALL_LIMIT) == small else 0 for size in sizes]

    def held(*, late: bool) -> tuple[int, ...]:
        tensors = [h for h in walked.held if (h.category in _LATE) == late]
        blocks: list[int] = []
        for count, group in groupby(tensors, lambda h: h.count):  # equal blocks one by one, as models are built
            blocks += [size for size in asked([h.block_bytes // count for h in group]) if size] * count
        return tuple(blocks)

    sizes = asked(tape.sizes)
    steps = _Steps(
        log=tuple(tape.log),
        update=next(position for name, position in tape.phases if name == "update"),
        runs=tuple(_fields_of(run) for run in tape.runs),
        reps=tuple(tape.reps),
        silent=frozenset(i for i, size in enumerate(sizes) if not size),
    )
    return _Request(steps=steps, sizes=tuple(sizes), early=held(late=False), late=held(late=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Story:
    """A step with every repetition spelled out. A block's number is its tensor's × width + the repetition.

    before, after: events up to the update and from it on. left: frees of what a step leaves to the next.
    """

    width: int
    before: list[Stretch]
    after: list[Stretch]
    left: "array[int]"


@lru_cache(maxsize=32)
def _spelled_out(steps: "_Steps") -> _Story:
    before = [*steps.between(0, steps.update)]
    after = [*steps.between(steps.update, len(steps.log))]
    events = [event for stretch, _ in (*before, *after) for event in stretch]
    freed = {~event for event in events if event < 0}
    left = array("i", [~event for event in events if event >= 0 and event not in freed])
    return _Story(width=steps.width, before=before, after=after, left=left)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """A walk's log without its sizes. update: where the optimizer's step begins. runs: each as a tuple. silent: tensors
    that the allocator has nothing to do with.
    """

    log: tuple[int, ...]
    update: int
    runs: tuple[tuple[Any, ...], ...]
    reps: tuple[int, ...]
    silent: frozenset[int]

    @property
    def width(self) -> int:
        """The most repetitions of anything."""
        return max(1, *self.reps, *(int(run[0]) for run in self.runs))

    def between(self, start: int, end: int) -> Iterator[Stretch]:
        """The events from one place in the log to before another."""
        stretch: list[int] = []
        log, reps, silent, width = self.log, self.reps, self.silent, self.width
        runs = [Run(*fields) for fields in self.runs]
        begins = {run.start: (run, True) for run in runs}
        begins.update({run.back_start: (run, False) for run in runs if run.back_start >= 0})
        last = {run.output: run.reps - 1 for run in runs} | {run.grad_output: 0 for run in runs}
        copies = {i: run.reps for run in runs for i in self._born(run)}
        position = start
        while position < end:
            if position in begins:
                run, forward = begins.pop(position)
                blocks = self._repeated(run, width, forward=forward)
                if self._restores(run, forward=forward):
                    yield array("i", stretch), 1
                    yield array("i", next(blocks)), run.reps - 1
                    *_, stretch = blocks
                else:
                    stretch.extend(chain.from_iterable(blocks))
                position = run.end if forward else run.back_end
                continue
            i = log[position]
            if i < 0:
                # of what one block hands to the next only the last is left; of what else a run made, every copy
                if ~i not in silent:
                    which = (last[~i],) if ~i in last else range(copies.get(~i, reps[~i]))
                    stretch.extend(~(~i * width + rep) for rep in which)
                position += 1
                continue
            # tensors of as many blocks that are made in a row are made block by block
            stop = position + 1
            while stop < end and log[stop] >= 0 and reps[log[stop]] == reps[i] > 1 and stop not in begins:
                stop += 1
            made = [j for j in log[position:stop] if j not in silent]
            stretch.extend(j * width + rep for rep in range(reps[i]) for j in made)
            position = stop
        yield array("i", stretch), 1

    def _born(self, run: Run) -> set[int]:
        """Tensors that a run makes in each of its blocks."""
        log = self.log
        born = {i for i in log[run.start : run.end] if i >= 0}
        return born | {i for i in log[run.back_start : run.back_end] if i >= 0} if run.back_start >= 0 else born

    def _entries(self, run: Run, *, forward: bool) -> tuple[list[int], list[int]]:
        """What the allocator has to do with in one direction of a run: in its last block, and in every other. What all
        blocks share goes with the last.
        """
        entries = self.log[run.start : run.end] if forward else self.log[run.back_start : run.back_end]
        last = [i for i in entries if (i if i >= 0 else ~i) not in self.silent]
        own = self._born(run)
        return last, [i for i in last if i >= 0 or ~i in own or ~i in (run.input, run.grad_input)]

    def _frees_output(self, run: Run, *, forward: bool) -> bool:
        """Whether every block but the first frees the output of the one before at its end."""
        return run.input_held and run.input_kept is not forward and run.output not in self.silent

    def _restores(self, run: Run, *, forward: bool) -> bool:
        """Whether each of several blocks but the last frees what it allocates, and nothing else."""
        _, common = self._entries(run, forward=forward)
        balanced = {i for i in common if i >= 0} == {~i for i in common if i < 0}
        return balanced and run.reps > 1 and not self._frees_output(run, forward=forward)

    def _repeated(self, run: Run, width: int, *, forward: bool) -> Iterator[list[int]]:
        """One direction of a run, block by block. Blocks other than the one next to the outside take their input from,
        and give their gradient to, a neighbour.
        """
        last, own = run.reps - 1, self._born(run)
        closing, common = self._entries(run, forward=forward)
        frees_output = self._frees_output(run, forward=forward)

        def block(rep: int) -> list[int]:
            first, final = (rep == 0, rep == last) if forward else (rep == last, rep == 0)
            events = []
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

        step = 1 if forward else -1
        order = range(run.reps)[::step]
        between: list[int] = []
        for rep in order:
            if rep in (0, last):
                yield block(rep)
                continue
            # blocks that are neither the first nor the last differ in the repetition alone
            between = [event + step if event >= 0 else event - step for event in between] or block(rep)
            yield between

    def _outer(self, index: int, width: int) -> int:
        """The block of a tensor from outside the run: of another run's output the last repetition, else the first."""
        runs = (Run(*fields) for fields in self.runs)
        return index * width + next((run.reps - 1 for run in runs if run.output == index), 0)
