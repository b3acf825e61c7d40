"""PyTorch's CUDA caching allocator, re-enacted on a stream of allocations and frees.

Facts from c10/cuda/CUDACachingAllocator.cpp: requests round up to 512 B; up to 1 MiB they come from 2 MiB segments of
a small pool; from 1 to 10 MiB from 20 MiB segments, above from a segment of their own rounded up to 2 MiB. A free block
is chosen by best fit and split when the rest is worth keeping (512 B in the small pool, more than 1 MiB in the large).
"""

from bisect import bisect_left, insort
from typing import Final

SMALL_LIMIT: Final = 1 << 20
SMALL_SEGMENT: Final = 2 << 20
MIN_LARGE: Final = 10 << 20
LARGE_SEGMENT: Final = 20 << 20
ROUND_LARGE: Final = 2 << 20
BLOCK: Final = 512


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


class CachingAllocator:
    """One device's cache. Segments are never returned: a step that fits does not make the allocator do so."""

    def __init__(self) -> None:
        self.reserved = 0
        self.allocated = 0
        self._address = 0
        self._pools: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}

    def allocate(self, num_bytes: int) -> Block:
        """A block for a request of that many bytes (at least one)."""
        size = (num_bytes + BLOCK - 1) & -BLOCK
        small = size <= SMALL_LIMIT
        pool = self._pools[small]
        at = bisect_left(pool, (size, -1))
        block = pool.pop(at)[2] if at < len(pool) else self._segment(size, small)
        rest = block.size - size
        if rest >= BLOCK if small else rest > SMALL_LIMIT:
            tail = Block(block.address + size, rest, small)
            tail.previous, tail.next = block, block.next
            if block.next is not None:
                block.next.previous = tail
            block.next = tail
            block.size = size
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
            first.size += second.size
            first.next = second.next
            if second.next is not None:
                second.next.previous = first
            block = first
        self._offer(block)

    def _segment(self, size: int, small: bool) -> Block:
        if small:
            length = SMALL_SEGMENT
        elif size < MIN_LARGE:
            length = LARGE_SEGMENT
        else:
            length = -(-size // ROUND_LARGE) * ROUND_LARGE
        block = Block(self._address, length, small)
        self._address += length + ROUND_LARGE
        self.reserved += length
        return block

    def _offer(self, block: Block) -> None:
        insort(self._pools[block.small], (block.size, block.address, block))

    def _withdraw(self, block: Block) -> None:
        pool = self._pools[block.small]
        del pool[bisect_left(pool, (block.size, block.address))]
