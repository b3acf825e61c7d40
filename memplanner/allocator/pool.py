"""One pool of the caching allocator without options or a limit: the rules of `allocator`, in one tight loop.

A prediction spends most of its time here. `CachingAllocator` says the same legibly, and with every option; a property
test holds the two equal.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence

from memplanner.allocator.reference import BLOCK, SMALL_LIMIT, TOP_DOWN, Block, segment_length
from memplanner.program.decode import Stretch

_SHIFT = 52
"""A free block's rank in its pool is size × 2^52 + address, one integer: best fit first, the lowest address of equals.
Addresses stay below 2^51."""
_NOWHERE = Block(0, 0, False)


def one_by_one(stretch: Stretch) -> Iterator[Sequence[int]]:
    """The events of each time."""
    events, times, step = stretch
    yield events
    for n in range(1, times):
        ahead = n * step
        yield [event + ahead if event >= 0 else event - ahead for event in events]


def spelled_out(stretches: Iterable[Stretch], sizes: Sequence[int]) -> Iterator[tuple[Sequence[int], int]]:
    """Events, and how often they happen in a row, without blocks that have no bytes. Where that is several times, they
    free all that they allocate, and nothing else.
    """
    for events, times, step in stretches:
        told = array("i", [event for event in events if sizes[event if event >= 0 else ~event]])
        if {event for event in told if event >= 0} == {~event for event in told if event < 0}:
            yield told, times
        else:
            yield from ((one, 1) for one in one_by_one(Stretch(told, times, step)))


def segment_bytes(stretches: Iterable[Stretch], sizes: Sequence[int], *, small: bool) -> int:
    """Bytes of all segments that one pool has asked for after the events.

    sizes: bytes of every block, in whole 512-byte blocks; 0 for what is no business of this pool. small: whether it is
    the pool of requests up to 1 MiB.

    What is free in a segment is what is not in use, all of it merged. So a stretch that frees all that it allocates,
    and has needed no new segment, leaves the pool as it was: it would do the same again, and is not replayed further.
    """
    free: list[int] = []
    by_rank: dict[int, Block] = {}
    blocks: list[Block] = [_NOWHERE] * len(sizes)
    reserved = address = 0
    ceiling = 1 << 50
    least_rest = BLOCK if small else SMALL_LIMIT + 1
    for events, times in spelled_out(stretches, sizes):
        for _ in range(times):
            before = reserved
            for event in events:
                if event >= 0:
                    size = sizes[event]
                    at = bisect_left(free, size << _SHIFT)
                    if at < len(free):
                        block = by_rank.pop(free.pop(at))
                    else:
                        length = segment_length(size, small)
                        reserved += length
                        if length >= TOP_DOWN:
                            ceiling -= length
                            block = Block(ceiling, length, small)
                        else:
                            block = Block(address, length, small)
                            address += length
                    rest = block.size - size
                    if rest >= least_rest:
                        tail = Block(block.address + size, rest, small)
                        after = tail.next = block.next
                        if after is not None:
                            after.previous = tail
                        tail.previous = block
                        block.next = tail
                        block.size = size
                        rank = rest << _SHIFT | tail.address
                        insort(free, rank)
                        by_rank[rank] = tail
                    block.free = False
                    blocks[event] = block
                    continue
                block = blocks[~event]
                other = block.previous
                if other is not None and other.free:
                    rank = other.size << _SHIFT | other.address
                    del free[bisect_left(free, rank)], by_rank[rank]
                    other.size += block.size
                    after = other.next = block.next
                    if after is not None:
                        after.previous = other
                    block = other
                other = block.next
                if other is not None and other.free:
                    rank = other.size << _SHIFT | other.address
                    del free[bisect_left(free, rank)], by_rank[rank]
                    block.size += other.size
                    after = block.next = other.next
                    if after is not None:
                        after.previous = block
                block.free = True
                rank = block.size << _SHIFT | block.address
                insort(free, rank)
                by_rank[rank] = block
            if reserved == before:
                break
    return reserved
