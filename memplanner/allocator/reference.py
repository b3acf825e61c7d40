"""PyTorch's CUDA caching allocator, re-enacted on a stream of allocations and frees.

Facts from c10/cuda/CUDACachingAllocator.cpp: requests round up to 512 B; up to 1 MiB they come from 2 MiB segments of
a small pool; from 1 to 10 MiB from 20 MiB segments, above from a segment of their own rounded up to 2 MiB. A free block
is chosen by best fit and split when the rest is worth keeping (512 B in the small pool, more than 1 MiB in the large).

Two options change that (PYTORCH_ALLOC_CONF). max_split_size: a block of at least that size is never split, is not given
to smaller requests, and serves a larger one only if less than 20 MiB too large (get_free_block, should_split).
expandable_segments: each pool is one range of addresses that grows at its end by pages of 2 MiB (small) or 20 MiB, so
that what is free at the end is used first; any rest of 512 B is split off (try_allocate_expandable_block, map_block).
"""

from bisect import bisect_left, insort
from typing import Final

SMALL_LIMIT: Final = 1 << 20
SMALL_SEGMENT: Final = 2 << 20
MIN_LARGE: Final = 10 << 20
LARGE_SEGMENT: Final = 20 << 20
ROUND_LARGE: Final = 2 << 20
BLOCK: Final = 512
TOP_DOWN: Final = 64 << 20
"""Segments from here on lie below the ones before them. Of equal free blocks the lowest address is taken, so the order
counts. Nothing documents it: it is inferred from published runs on a Tesla T4 (docs/lab-log.md)."""


class Block:
    """A stretch of a segment, in use or free; `previous` and `next` are its neighbours in the segment."""

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


class DeviceFullError(MemoryError):
    """The device cannot give another segment, with all unused ones returned to it."""


class CachingAllocator:
    """One device's cache.

    limit: bytes that the device gives. A segment beyond it makes the allocator return every unused one and ask again
    (release_cached_blocks); DeviceFullError where that is not enough. Expandable segments, which would unmap pages
    instead, are held to the limit without that. max_split_size: in bytes.
    """

    def __init__(
        self, *, expandable_segments: bool = False, max_split_size: int | None = None, limit: int | None = None
    ) -> None:
        self.expandable_segments = expandable_segments
        self.max_split_size = max_split_size
        self.limit = limit
        self.retries = 0
        """How often the allocator had to return its unused segments."""
        self.reserved = self.peak_reserved = 0
        self.allocated = 0
        self._address = 0
        self._ceiling = 1 << 50
        self._pools: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._ends: dict[bool, Block] = {}
        """Of expandable segments: the last block of each pool's range."""

    def allocate(self, num_bytes: int) -> Block:
        """A block for a request of that many bytes (at least one)."""
        size = (num_bytes + BLOCK - 1) & -BLOCK
        small = size <= SMALL_LIMIT
        block = self._cached(size, small) or self._more(size, small)
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

    def _cached(self, size: int, small: bool) -> Block | None:
        """The smallest free block that serves the request, taken out of its pool."""
        pool = self._pools[small]
        at = bisect_left(pool, (size, -1))
        if at == len(pool):
            return None
        found, limit = pool[at][0], self.max_split_size
        if limit is not None and not small:
            oversized = found >= limit if size < limit else found >= size + LARGE_SEGMENT
            if oversized:
                return None
        return pool.pop(at)[2]

    def _splits(self, size: int, rest: int, small: bool) -> bool:
        if small or self.expandable_segments:
            return rest >= BLOCK
        return rest > SMALL_LIMIT and (self.max_split_size is None or size < self.max_split_size)

    def _more(self, size: int, small: bool) -> Block:
        return self._grown(size, small) if self.expandable_segments else self._segment(size, small)

    def _grown(self, size: int, small: bool) -> Block:
        """The free end of the pool's range, made as long as it must be; it may be longer, where max_split_size kept it
        from being found among what is free.
        """
        page = SMALL_SEGMENT if small else LARGE_SEGMENT
        end = self._ends.get(small)
        if end is None or not end.free:
            address = (1 << 50) * (1 if small else 2) if end is None else end.address + end.size
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

    def _segment(self, size: int, small: bool) -> Block:
        length = segment_length(size, small)
        self._take(length)
        if length >= TOP_DOWN:
            self._ceiling -= length
            return Block(self._ceiling, length, small)
        block = Block(self._address, length, small)
        self._address += length
        return block

    def _take(self, length: int) -> None:
        """Count another segment, after returning the unused ones if the device has no room for it."""
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
