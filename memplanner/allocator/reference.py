"""PyTorch's CUDA caching allocator, re-enacted on a stream of allocations and frees.

This is the specification, and what answers where allocator.c was not compiled or has no room for the numbers.

The rules are those of c10/cuda/CUDACachingAllocator.cpp. A request is rounded up to 512 bytes. Up to 1 MiB it belongs
to the small pool, whose segments have 2 MiB. Above, it belongs to the large pool: below 10 MiB its segment has 20 MiB,
from 10 MiB on the request gets a segment of its own, rounded up to 2 MiB. The smallest free block that is large enough
serves the request. It is split where the rest is worth keeping: 512 bytes in the small pool, more than 1 MiB in the
large one. A block that is freed merges with its free neighbours; its segment stays with the allocator.

Two options change that (PYTORCH_ALLOC_CONF). With max_split_size, a block of at least that size is never split and not
given to a smaller request, and it serves a request of at least that size only if it is less than 20 MiB too large
(get_free_block, should_split). With expandable_segments, each pool is one range of addresses that grows at its end by
pages of 2 MiB (small) or 20 MiB (large), so that what is free at the end is used before more is asked for, and any rest
of 512 bytes is split off (try_allocate_expandable_block, map_block).
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Final

from memplanner.allocator import SMALL_LIMIT, DeviceFullError, Held
from memplanner.program.stretch import Stretch

SMALL_SEGMENT: Final = 2 << 20
MIN_LARGE: Final = 10 << 20
LARGE_SEGMENT: Final = 20 << 20
ROUND_LARGE: Final = 2 << 20
BLOCK: Final = 512
TOP_DOWN: Final = 64 << 20
"""A segment of at least that many bytes lies below the segments of that kind before it, a smaller one above those
before it. Of free blocks of one size the one at the lowest address is taken, so this order counts. Nothing documents
it: it is inferred from published runs on a Tesla T4 (docs/lab-log.md)."""
_CEILING: Final = 1 << 100
"""Where the addresses begin that are given out downwards: so high that they never meet those given out upwards."""


class Block:
    """A part of a segment, in use or free. address and size are in bytes; previous and next are its neighbours in the
    segment.
    """

    __slots__ = ("address", "free", "next", "previous", "size", "small")

    def __init__(self, address: int, size: int, small: bool) -> None:
        self.address = address
        self.size = size
        self.small = small
        self.free = True
        self.previous: Block | None = None
        self.next: Block | None = None

    @property
    def is_segment(self) -> bool:
        """Whether it is all of its segment."""
        return self.previous is None and self.next is None


def segment_length(size: int, small: bool) -> int:
    """Bytes of the segment that is asked for where no free block serves a request of this size."""
    if small:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < MIN_LARGE else -(-size // ROUND_LARGE) * ROUND_LARGE


class CachingAllocator:
    """The allocator of one device.

    limit: bytes that the device has to give. Where another segment would exceed it, the allocator returns every segment
    that is not in use and asks again (release_cached_blocks); DeviceFullError where that is not enough. Expandable
    segments would unmap pages instead, which is not modelled: with them, exceeding the limit is DeviceFullError at
    once. max_split_size: bytes.
    """

    def __init__(
        self, *, expandable_segments: bool = False, max_split_size: int | None = None, limit: int | None = None
    ) -> None:
        self.expandable_segments = expandable_segments
        self.max_split_size = max_split_size
        self.limit = limit
        self.retries = 0
        """How often the device had no room for another segment at the first attempt."""
        self.reserved = self.peak_reserved = 0
        self.allocated = self.peak_allocated = 0
        """Bytes of the blocks in use, with the rests that were not split off: now, and the most so far."""
        self._address = 0
        self._ceiling = _CEILING
        self._pools: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._ends: dict[bool, Block] = {}
        """With expandable segments: the last block of each pool's range."""

    def allocate(self, num_bytes: int) -> Block:
        """A block for a request of that many bytes (at least one)."""
        size = (num_bytes + BLOCK - 1) & -BLOCK
        small = size <= SMALL_LIMIT
        block = self._best_fit(size, small) or self._new_memory(size, small)
        rest = block.size - size
        if self._splits(size, rest, small):
            tail = Block(block.address + size, rest, small)
            tail.previous, tail.next = block, block.next
            if block.next is not None:
                block.next.previous = tail
            block.next = tail
            block.size = size
            if self._ends.get(small) is block:
                self._ends[small] = tail
            self._offer(tail)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def release(self, block: Block) -> None:
        """Give a block back; it merges with free neighbours."""
        self.allocated -= block.size
        block.free = True
        for other in (block.previous, block.next):
            if other is None or not other.free:
                continue
            self._withdraw(other)
            first, second = (other, block) if other is block.previous else (block, other)
            if self._ends.get(block.small) is second:
                self._ends[block.small] = first
            first.size += second.size
            first.next = second.next
            if second.next is not None:
                second.next.previous = first
            block = first
        self._offer(block)

    def _best_fit(self, size: int, small: bool) -> Block | None:
        """The smallest free block that serves the request, taken out of its pool; None where there is none."""
        pool = self._pools[small]
        position = bisect_left(pool, (size, -1))
        if position == len(pool):
            return None
        free_bytes, threshold = pool[position][0], self.max_split_size
        if threshold is not None and not small:
            too_large = free_bytes >= threshold if size < threshold else free_bytes >= size + LARGE_SEGMENT
            if too_large:
                return None
        return pool.pop(position)[2]

    def _splits(self, size: int, rest: int, small: bool) -> bool:
        if small or self.expandable_segments:
            return rest >= BLOCK
        return rest > SMALL_LIMIT and (self.max_split_size is None or size < self.max_split_size)

    def _new_memory(self, size: int, small: bool) -> Block:
        return self._extended_range(size, small) if self.expandable_segments else self._new_segment(size, small)

    def _extended_range(self, size: int, small: bool) -> Block:
        """The free block at the end of the pool's range, extended where it is too small.

        It can be large enough already: where max_split_size forbade to take it as a cached block.
        """
        page = SMALL_SEGMENT if small else LARGE_SEGMENT
        end = self._ends.get(small)
        if end is None or not end.free:
            address = _CEILING * (1 if small else 2) if end is None else end.address + end.size
            block = Block(address, 0, small)
            block.previous = end
            if end is not None:
                end.next = block
            self._ends[small] = block
        else:
            block = end
            self._withdraw(block)
        if block.size < size:
            more = -(-(size - block.size) // page) * page
            block.size += more
            self._take(more)
        return block

    def _new_segment(self, size: int, small: bool) -> Block:
        length = segment_length(size, small)
        self._take(length)
        if length >= TOP_DOWN:
            self._ceiling -= length
            return Block(self._ceiling, length, small)
        block = Block(self._address, length, small)
        self._address += length
        return block

    def _take(self, length: int) -> None:
        """Take that many bytes from the device; where it has too few left, return the unused segments first."""
        if self.limit is not None and self.reserved + length > self.limit:
            self.retries += 1
            if not self.expandable_segments:
                self._return_unused()
            if self.reserved + length > self.limit:
                raise DeviceFullError
        self.reserved += length
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def _return_unused(self) -> None:
        for pool in self._pools.values():
            self.reserved -= sum(size for size, _, block in pool if block.is_segment)
            pool[:] = [entry for entry in pool if not entry[2].is_segment]

    def _offer(self, block: Block) -> None:
        insort(self._pools[block.small], (block.size, block.address, block))

    def _withdraw(self, block: Block) -> None:
        pool = self._pools[block.small]
        del pool[bisect_left(pool, (block.size, block.address))]


class Replay:
    """The events of `stretches`, to be replayed with any sizes. The blocks with the numbers from n << bits up to before
    (n + 1) << bits are the copies of tensor n and have the same size.
    """

    def __init__(self, stretches: Sequence[Stretch], *, bits: int = 0) -> None:
        self._stretches = stretches
        self._bits = bits

    def run(
        self,
        sizes: Sequence[int],
        *,
        expandable_segments: bool = False,
        max_split_size: int | None = None,
        limit: int | None = None,
    ) -> Held:
        """What the allocator holds meanwhile; DeviceFullError where the limit is not enough.

        sizes: bytes of one copy of each tensor. One of 0 bytes is left out: what has no bytes is never requested. The
        options are CachingAllocator's.
        """
        allocator = CachingAllocator(
            expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit
        )
        blocks: dict[int, Block] = {}
        peaks: list[int] = []
        ends: list[int] = []
        for stretch in self._stretches:
            allocator.peak_allocated = allocator.allocated
            for events in stretch.each_time():
                for event in events:
                    number = event if event >= 0 else ~event
                    size = sizes[number >> self._bits]
                    if not size:
                        continue
                    if event >= 0:
                        blocks[number] = allocator.allocate(size)
                    else:
                        allocator.release(blocks.pop(number))
            peaks.append(allocator.peak_allocated)
            ends.append(allocator.allocated)
        return Held(allocator.peak_reserved, tuple(peaks), tuple(ends))
