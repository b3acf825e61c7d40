"""From allocated to reserved: the walk's log, every repetition spelled out, run through the caching allocator.

The allocator's two pools share nothing but the device's memory. As long as that suffices, each is replayed by itself,
and remembered: of plans that differ in rank or in batch, one of the two is often the same.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, repeat
from typing import Any

from memplanner.allocator import native
from memplanner.allocator.pool import segment_bytes, spelled_out
from memplanner.allocator.reference import SMALL_LIMIT, Block, CachingAllocator
from memplanner.program.decode import Stretch, decoded
from memplanner.program.program import Persistent, PersistentTensor, StepProgram, Structure

_LATE = ("gradients", "optimizer_state", "projectors")
"""Categories of held tensors that the first step makes, before its update."""


@lru_cache(maxsize=8)
def reserved_peak(
    program: StepProgram,
    *,
    expandable_segments: bool = False,
    max_split_size: int | None = None,
    limit: int | None = None,
) -> int:
    """The most bytes of segments in two steps, the first of which makes the optimizer's states.

    limit: bytes that the device gives; DeviceFullError where no return of unused segments makes the steps fit.
    """
    if limit is None and not expandable_segments and max_split_size is None:
        return sum(_pool_bytes(_request(program, small=small), small=small) for small in (True, False))
    request = _request(program)
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
    decoded.cache_clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """All that an allocator's answer depends on. sizes: bytes of the log's tensors, 0 for what it has nothing to do
    with. early, late: bytes of the tensors that stay, made before the first step and before its update.
    """

    steps: Structure
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


def _request(program: StepProgram, *, small: bool | None = None) -> _Request:
    """What the program asks of one of the pools, or of the whole allocator (None)."""
    early, late = _standing(program.persistent, small)
    return _Request(steps=program.structure, sizes=tuple(_own(program.sizes, small)), early=early, late=late)


def _own(sizes: Sequence[int], small: bool | None) -> Sequence[int]:
    """Without what is another pool's."""
    return sizes if small is None else [size if (size <= SMALL_LIMIT) == small else 0 for size in sizes]


@lru_cache(maxsize=64)
def _standing(persistent: Persistent, small: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes of the blocks that stay, early and late. Equal blocks of a model are made one after the other."""
    found: tuple[list[PersistentTensor], list[PersistentTensor]] = [], []
    for tensor in persistent:
        found[tensor.category in _LATE].append(tensor)

    def blocks(tensors: list[PersistentTensor]) -> Iterator[int]:
        for count, group in groupby(tensors, lambda h: h.copies):
            yield from [size for size in _own([h.block_bytes // count for h in group], small) if size] * count

    early, late = found
    return tuple(blocks(early)), tuple(blocks(late))


@lru_cache(maxsize=64)
def _allocated(first: int, end: int) -> Stretch:
    """Blocks that are numbered in a row."""
    return Stretch(array("i", range(first, end)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Story:
    """A step, its repetitions spelled out. before, after: events up to the update and from it on. left: frees of what
    a step leaves to the next.
    """

    bits: int
    before: tuple[Stretch, ...]
    after: tuple[Stretch, ...]
    left: Stretch


@lru_cache(maxsize=32)
def _story(structure: Structure) -> _Story:
    step = decoded(structure)
    return _Story(
        bits=step.bits, before=step.between(None, "update"), after=step.between("update", None), left=step.left
    )
