"""The caching allocator: sequences worked by hand, and what must hold of all."""

from array import array
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.allocator import DeviceFullError
from memplanner.allocator.reference import CachingAllocator, Replay
from memplanner.program.stretch import Stretch
from memplanner.units import KIB, MIB
from tests.allocator.options import OPTIONS


def test_a_small_request_takes_a_block_of_a_two_mib_segment() -> None:
    allocator = CachingAllocator()
    first, second = allocator.allocate(1), allocator.allocate(513)
    assert (first.size, second.size) == (512, 1024)
    assert second.address == first.address + 512
    assert (allocator.allocated, allocator.reserved) == (1536, 2 * MIB)


def test_segment_sizes() -> None:
    for size, segment in (
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ):
        allocator = CachingAllocator()
        allocator.allocate(size)
        assert allocator.reserved == segment, size


def test_a_large_block_is_split_only_when_more_than_a_mib_is_left() -> None:
    allocator = CachingAllocator()
    allocator.release(allocator.allocate(12 * MIB))
    whole = allocator.allocate(11 * MIB)
    assert (whole.size, allocator.allocated) == (12 * MIB, 12 * MIB)
    allocator.release(whole)
    assert allocator.allocate(10 * MIB).size == 10 * MIB
    assert allocator.allocate(2 * MIB).size == 2 * MIB
    assert allocator.reserved == 12 * MIB


def test_best_fit_takes_the_smallest_block_that_does() -> None:
    allocator = CachingAllocator()
    big, small = allocator.allocate(40 * MIB), allocator.allocate(16 * MIB)
    big_address, small_address = big.address, small.address
    allocator.release(big)
    allocator.release(small)
    assert allocator.allocate(15 * MIB).address == small_address
    assert allocator.allocate(20 * MIB).address == big_address


def test_neighbours_merge() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.allocate(5 * MIB) for _ in range(4)]
    assert allocator.reserved == 20 * MIB
    for block in (blocks[0], blocks[2], blocks[3], blocks[1]):
        allocator.release(block)
    assert allocator.allocate(9 * MIB).size == 9 * MIB
    assert allocator.reserved == 20 * MIB


def test_pools_do_not_lend_to_each_other() -> None:
    allocator = CachingAllocator()
    allocator.release(allocator.allocate(20 * MIB))
    allocator.allocate(KIB)
    assert allocator.reserved == 22 * MIB


def test_expandable_segments_grow_by_pages_at_their_end() -> None:
    allocator = CachingAllocator(expandable_segments=True)
    first = allocator.allocate(30 * MIB)
    assert allocator.reserved == 40 * MIB
    tail = allocator.allocate(5 * MIB)
    assert (tail.address, allocator.reserved) == (first.address + 30 * MIB, 40 * MIB)
    allocator.release(first)
    later = allocator.allocate(35 * MIB)  # the 30 MiB in front are too few; 5 MiB at the end are part of it
    assert (later.address, allocator.reserved) == (first.address + 35 * MIB, 80 * MIB)
    assert allocator.allocate(KIB).size == KIB
    assert allocator.reserved == 82 * MIB


def test_expandable_segments_waste_nothing_between_sizes() -> None:
    """Ever larger blocks, each freed before the next: a new segment each, or one that grows."""
    plain, expandable = CachingAllocator(), CachingAllocator(expandable_segments=True)
    for allocator in (plain, expandable):
        for size in (20, 40, 60, 80):
            allocator.release(allocator.allocate(size * MIB))
    assert (plain.reserved, expandable.reserved) == (200 * MIB, 80 * MIB)


def test_blocks_above_the_split_size_stay_whole() -> None:
    allocator = CachingAllocator(max_split_size=32 * MIB)
    allocator.release(allocator.allocate(64 * MIB))
    assert allocator.allocate(8 * MIB).size == 8 * MIB  # from a segment of its own: the oversized block is not for it
    assert allocator.reserved == 84 * MIB
    assert allocator.allocate(50 * MIB).size == 64 * MIB  # within 20 MiB: given whole
    allocator.release(allocator.allocate(100 * MIB))
    assert allocator.allocate(60 * MIB).size == 60 * MIB
    assert allocator.reserved == 84 * MIB + 100 * MIB + 60 * MIB


def test_unused_segments_are_returned_when_the_device_is_full() -> None:
    """40 MiB of cached blocks are of no use to 60: they go back, and the request fits after all."""
    allocator = CachingAllocator(limit=100 * MIB)
    kept = allocator.allocate(20 * MIB)
    for block in [allocator.allocate(20 * MIB), allocator.allocate(20 * MIB)]:
        allocator.release(block)
    assert allocator.reserved == 60 * MIB
    allocator.allocate(60 * MIB)
    assert (allocator.reserved, allocator.peak_reserved, allocator.retries) == (80 * MIB, 80 * MIB, 1)
    allocator.release(kept)
    assert allocator.allocate(10 * MIB).address == kept.address  # split: its segment cannot be returned
    with pytest.raises(DeviceFullError):
        allocator.allocate(22 * MIB)
    assert (allocator.reserved, allocator.retries) == (80 * MIB, 2)


def test_large_segments_lie_below_those_before_them() -> None:
    allocator = CachingAllocator()
    first, second = allocator.allocate(64 * MIB), allocator.allocate(64 * MIB)
    assert second.address < first.address
    below, above = allocator.allocate(30 * MIB), allocator.allocate(30 * MIB)
    assert below.address < above.address
    allocator.release(first)
    allocator.release(second)
    assert allocator.allocate(64 * MIB).address == second.address  # of equals, the lowest address


def test_an_end_that_is_too_large_to_be_found_is_used_as_it_is() -> None:
    options: dict[str, Any] = {"expandable_segments": True, "max_split_size": 50 * MIB}
    allocator = CachingAllocator(**options)
    whole = allocator.allocate(100 * MIB)
    allocator.release(whole)
    assert allocator.allocate(10 * MIB) is whole
    assert (allocator.reserved, allocator.peak_reserved) == (100 * MIB, 100 * MIB)


def test_each_time_of_a_stretch_has_its_own_block_numbers() -> None:
    assert list(map(list, Stretch(array("i", (4, ~9)), 3, -2).each_time())) == [[4, ~9], [2, ~7], [0, ~5]]


def test_a_replay_skips_tensors_without_bytes() -> None:
    """Three copies of two tensors; of another pool or of no bytes is the third."""
    stretches = [Stretch(array("i", (0, 4, 8)), 3, 1), Stretch(array("i", (~0, ~8)), 3, 1), Stretch(array("i", (0,)))]
    replay = Replay(stretches, bits=2)
    assert replay.run([20 * MIB, 64 * MIB, 0]).reserved == 3 * 84 * MIB
    assert replay.run([20 * MIB, 0, 0]).reserved == 3 * 20 * MIB
    with pytest.raises(DeviceFullError):
        replay.run([20 * MIB, 64 * MIB, 0], limit=3 * 84 * MIB - 1)


REQUESTS = st.lists(st.tuples(st.integers(1, 40 * MIB), st.integers(0, 9)), max_size=60)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(requests=REQUESTS)
def test_live_blocks_never_overlap(options: dict[str, Any], requests: list[tuple[int, int]]) -> None:
    def play() -> tuple[int, list[tuple[int, int]]]:
        allocator = CachingAllocator(**options)
        live: list[Any] = []
        for size, action in requests:
            if action < 3 and live:
                allocator.release(live.pop(action % len(live)))
            else:
                block = allocator.allocate(size)
                assert block.size >= size
                live.append(block)
            spans = sorted((b.address, b.address + b.size) for b in live)
            assert all(a_end <= b_start for (_, a_end), (b_start, _) in pairwise(spans))
            assert allocator.allocated == sum(b.size for b in live) <= allocator.reserved
        return allocator.reserved, [(b.address, b.size) for b in live]

    assert play() == play()
