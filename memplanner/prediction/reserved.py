"""From allocated to reserved: the walk's log, every repetition spelled out, run through the caching allocator."""

from collections.abc import Iterator
from itertools import groupby

from memplanner.prediction.allocator import Block, CachingAllocator
from memplanner.prediction.walk import Held, Walk
from memplanner.tape.engine import Run, Tape

Key = tuple[int, int]
"""A tensor and the repetition of its run that made it."""


def reserved_peak(
    walked: Walk, *, expandable_segments: bool = False, max_split_size: int | None = None, limit: int | None = None
) -> int:
    """The most bytes of segments in two steps, the first of which makes the optimizer's states.

    limit: bytes that the device gives; DeviceFullError where no return of unused segments makes the steps fit.
    """
    allocator = CachingAllocator(expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit)
    late = ("gradients", "optimizer_state", "projectors")
    _hold(allocator, [h for h in walked.held if h.category not in late])
    events = list(expanded(walked.tape))
    update = next(position for name, position in walked.tape.phases if name == "update")
    alive: dict[Key, Block] = {}
    _play(allocator, [e for e in events if e[2] < update], alive)
    _hold(allocator, [h for h in walked.held if h.category in late])
    _play(allocator, [e for e in events if e[2] >= update], alive)
    _release(allocator, alive)
    _play(allocator, events, alive)
    return allocator.peak_reserved


def _hold(allocator: CachingAllocator, tensors: list[Held]) -> None:
    """Allocate tensors that are never freed; those of equal blocks go block by block, as models are built."""
    for count, group in groupby(tensors, key=lambda held: held.count):
        sizes = [held.block_bytes // count for held in group]
        for _ in range(count):
            for size in sizes:
                allocator.allocate(size)


def _play(allocator: CachingAllocator, events: list[tuple[Key, int, int]], alive: dict[Key, Block]) -> None:
    """Run the events through the allocator; `alive` is what there is before and after."""
    for key, size, _ in events:
        if size > 0:
            alive[key] = allocator.allocate(size)
        elif size < 0:
            allocator.release(alive.pop(key))


def _release(allocator: CachingAllocator, alive: dict[Key, Block]) -> None:
    for key in list(alive):
        allocator.release(alive.pop(key))


def expanded(tape: Tape) -> Iterator[tuple[Key, int, int]]:
    """Every allocation (size > 0) and free (size < 0) of the step and its place in the log, repetitions spelled out."""
    starts: dict[int, tuple[Run, bool]] = {}
    for run in tape.runs:
        starts[run.start] = (run, True)
        if run.back_start >= 0:
            starts[run.back_start] = (run, False)
    position, log, sizes, reps = 0, tape.log, tape.sizes, tape.reps
    outputs = {run.output: run for run in tape.runs}
    alive: set[Key] = set()
    while position < len(log):
        if position in starts:
            run, forward = starts.pop(position)
            end = run.end if forward else run.back_end
            for event in _repeated(tape, run, forward, log[position:end], position):
                (alive.add if event[1] > 0 else alive.discard)(event[0])
                yield event
            position = end
            continue
        i = log[position]
        if i >= 0:
            # Tensors of as many blocks that are made in a row are made block by block.
            end = position + 1
            while end < len(log) and log[end] >= 0 and reps[log[end]] == reps[i] > 1 and end not in starts:
                end += 1
            for key in ((j, rep) for rep in range(reps[i]) for j in log[position:end]):
                alive.add(key)
                yield key, sizes[key[0]], position
            position = end
            continue
        index = ~i
        if index in outputs:
            keys = [(index, outputs[index].reps - 1)]
        else:
            keys = [k for k in ((index, rep) for rep in range(max(reps[index], _highest(tape)))) if k in alive]
        for key in keys:
            alive.discard(key)
            yield key, -sizes[index], position
        position += 1


def _highest(tape: Tape) -> int:
    """The most repetitions of any run."""
    return max((run.reps for run in tape.runs), default=1)


def _repeated(tape: Tape, run: Run, forward: bool, entries: list[int], position: int) -> Iterator[tuple[Key, int, int]]:
    sizes, n = tape.sizes, run.reps
    own = {i for i in tape.log[run.start : run.end] if i >= 0}
    born = {i for i in entries if i >= 0}
    order = range(n) if forward else range(n - 1, -1, -1)
    for number, rep in enumerate(order):
        for i in entries:
            index = i if i >= 0 else ~i
            if i >= 0:
                yield (index, rep), sizes[index], position
            elif index == run.input:
                yield ((run.output, rep - 1) if rep else (index, _outer(tape, index))), -sizes[index], position
            elif index in born or index in own:
                yield (index, rep), -sizes[index], position
            elif index == run.grad_input:
                key = (index, _outer(tape, index)) if number == 0 else (run.grad_output, rep + 1)
                yield key, -sizes[index], position
            elif number == n - 1:
                yield (index, _outer(tape, index)), -sizes[index], position
        if rep and run.input_held and run.input_kept is not forward:
            yield (run.output, rep - 1), -sizes[run.output], position


def _outer(tape: Tape, index: int) -> int:
    """The repetition under which a tensor from outside the run is known: the last of its own run, else 0."""
    for run in tape.runs:
        if index == run.output:
            return run.reps - 1
        if index == run.grad_output:
            return 0
    return 0
