"""The caching allocator re-enacted: sequences worked by hand from CUDACachingAllocator.cpp's rules, and properties."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memplanner.allocator.reference import Block, CachingAllocator
from memplanner.units import KIB, MIB

any_sequence = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=(HealthCheck.too_slow,)
)


@pytest.fixture
def allocator() -> CachingAllocator:
    return CachingAllocator()


# -- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "block_bytes"),
    [(1, 512), (511, 512), (512, 512), (513, 1024), (1024, 1024), (100_000, 100_352), (MIB - 1, MIB)],
)
def test_requests_round_up_to_512(allocator: CachingAllocator, request_bytes: int, block_bytes: int) -> None:
    block = allocator.allocate(request_bytes)
    assert block.size == block_bytes
    assert allocator.allocated == block_bytes


@pytest.mark.parametrize(
    ("request_bytes", "segment_bytes"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB),  # rounds up to 10 MiB, and so to a segment of its own
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (12 * MIB, 12 * MIB),
        (21 * MIB, 22 * MIB),
        (1001 * MIB, 1002 * MIB),
    ],
)
def test_segments_by_request(allocator: CachingAllocator, request_bytes: int, segment_bytes: int) -> None:
    allocator.allocate(request_bytes)
    assert allocator.reserved == segment_bytes


# -- splitting -----------------------------------------------------------------------------------------------------


def test_a_small_segment_is_cut_down_to_its_last_512_bytes(allocator: CachingAllocator) -> None:
    blocks = [allocator.allocate(512) for _ in range(4096)]
    assert allocator.reserved == allocator.allocated == 2 * MIB
    assert [b.address for b in blocks] == [512 * i for i in range(4096)]
    allocator.allocate(512)
    assert allocator.reserved == 4 * MIB


def test_two_of_1_mib_share_a_small_segment(allocator: CachingAllocator) -> None:
    first, second, third = (allocator.allocate(MIB) for _ in range(3))
    assert (first.address, second.address) == (0, MIB)
    assert third.address >= 2 * MIB
    assert allocator.reserved == 4 * MIB


def test_small_and_large_do_not_mix(allocator: CachingAllocator) -> None:
    """18 MiB of the large segment are free, yet a small request has a segment of the small pool."""
    allocator.allocate(2 * MIB)
    allocator.allocate(512)
    assert allocator.reserved == 22 * MIB
    allocator.allocate(MIB + 512)
    assert allocator.reserved == 22 * MIB


def test_a_large_rest_of_1_mib_stays_with_its_block(allocator: CachingAllocator) -> None:
    """12 MiB held for 11 MiB: a rest of exactly 1 MiB is not split off, one of 1 MiB + 512 B is."""
    whole = allocator.allocate(11 * MIB)
    assert (whole.size, allocator.reserved, allocator.allocated) == (12 * MIB, 12 * MIB, 12 * MIB)
    split = allocator.allocate(11 * MIB - 512)
    assert (split.size, allocator.reserved) == (11 * MIB - 512, 24 * MIB)
    rest = allocator.allocate(MIB + 512)
    assert rest.address == split.address + split.size
    assert allocator.reserved == 24 * MIB


def test_a_20_mib_segment_serves_what_fits(allocator: CachingAllocator) -> None:
    """9 + 9 MiB leave 2 MiB: 2 MiB fit in there, and then 1 MiB + 512 B do not."""
    for request in (9 * MIB, 9 * MIB, 2 * MIB):
        allocator.allocate(request)
    assert (allocator.reserved, allocator.allocated) == (20 * MIB, 20 * MIB)
    allocator.allocate(MIB + 512)
    assert allocator.reserved == 40 * MIB


# -- best fit ------------------------------------------------------------------------------------------------------


def test_the_smallest_block_that_is_large_enough_is_taken(allocator: CachingAllocator) -> None:
    blocks = [allocator.allocate(size) for size in (30 * MIB, 14 * MIB, 16 * MIB)]
    for block in blocks:
        allocator.release(block)
    assert allocator.allocate(15 * MIB).address == blocks[2].address
    assert allocator.allocate(14 * MIB).address == blocks[1].address
    assert allocator.allocate(14 * MIB).address == blocks[0].address
    assert allocator.allocate(16 * MIB).address == blocks[0].address + 14 * MIB
    assert allocator.reserved == 60 * MIB


def test_equal_blocks_are_taken_by_address(allocator: CachingAllocator) -> None:
    blocks = [allocator.allocate(12 * MIB) for _ in range(3)]
    for block in (blocks[1], blocks[2], blocks[0]):
        allocator.release(block)
    assert [allocator.allocate(12 * MIB).address for _ in range(3)] == [b.address for b in blocks]


# -- merging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_free_neighbours_merge_in_any_order(allocator: CachingAllocator, order: tuple[int, ...]) -> None:
    blocks = [allocator.allocate(size) for size in (3 * MIB, 5 * MIB, 4 * MIB)]
    fence = allocator.allocate(8 * MIB)
    for i in order:
        allocator.release(blocks[i])
    assert allocator.allocated == fence.size
    again = allocator.allocate(12 * MIB)
    assert (again.address, allocator.reserved) == (0, 20 * MIB)


def test_a_block_in_use_keeps_its_neighbours_apart(allocator: CachingAllocator) -> None:
    """8 of 20 MiB are free on either side of a fence: 9 MiB go elsewhere though 16 MiB are free."""
    left, _, right = (allocator.allocate(size) for size in (8 * MIB, 4 * MIB, 8 * MIB))
    allocator.release(left)
    allocator.release(right)
    assert (allocator.allocated, allocator.reserved) == (4 * MIB, 20 * MIB)
    allocator.allocate(9 * MIB)
    assert (allocator.allocated, allocator.reserved) == (13 * MIB, 40 * MIB)


def test_segments_do_not_merge(allocator: CachingAllocator) -> None:
    for block in [allocator.allocate(10 * MIB) for _ in range(2)]:
        allocator.release(block)
    allocator.allocate(20 * MIB)
    assert allocator.reserved == 40 * MIB


def test_a_merged_rest_joins_its_segment_again(allocator: CachingAllocator) -> None:
    first = allocator.allocate(100 * KIB)
    second = allocator.allocate(200 * KIB)
    allocator.release(first)
    assert allocator.allocate(150 * KIB).address == 300 * KIB
    allocator.release(second)
    assert allocator.allocate(300 * KIB).address == 0
    assert (allocator.allocated, allocator.reserved) == (450 * KIB, 2 * MIB)


def test_a_step_of_three_tensors_by_hand(allocator: CachingAllocator) -> None:
    """Weights 6 MiB, activations 12 + 3 MiB; the second step reuses the first one's segments, a longer one does not."""
    weights = allocator.allocate(6 * MIB)  # 20 MiB segment, 14 free
    for _ in range(2):
        hidden = allocator.allocate(12 * MIB)  # takes the 14 MiB rest; 2 MiB of it are split off
        logits = allocator.allocate(3 * MIB)  # 2 MiB do not do: a second 20 MiB segment
        assert (allocator.allocated, allocator.reserved) == (21 * MIB, 40 * MIB)
        allocator.release(hidden)
        allocator.release(logits)
    assert allocator.allocated == weights.size
    allocator.allocate(15 * MIB)  # the second segment is empty again, and the best fit
    allocator.allocate(14 * MIB)
    assert (allocator.allocated, allocator.reserved) == (35 * MIB, 40 * MIB)
    allocator.allocate(21 * MIB)
    assert allocator.reserved == 62 * MIB


# -- properties ----------------------------------------------------------------------------------------------------

sizes = st.one_of(
    st.integers(1, 4 * KIB),
    st.integers(1, 2 * MIB),
    st.integers(MIB, 30 * MIB),
    st.sampled_from((MIB, MIB + 1, 10 * MIB, 10 * MIB - 512, 20 * MIB)),
)
events = st.lists(st.tuples(sizes, st.integers(0, 3), st.integers(0, 1 << 16)), max_size=80)
"""(size, how often to release, which): an allocation followed by up to three releases."""

Live = list[tuple[int, Block]]
Events = list[tuple[int, int, int]]


def play(allocator: CachingAllocator, sequence: Events, live: Live) -> list[tuple[int, int, int]]:
    """Run the sequence; (address, allocated, reserved) after each allocation."""
    seen = []
    for size, releases, which in sequence:
        block = allocator.allocate(size)
        live.append((size, block))
        seen.append((block.address, allocator.allocated, allocator.reserved))
        for _ in range(min(releases, 2, len(live))):
            allocator.release(live.pop(which % len(live))[1])
    return seen


def segments(live: Live) -> list[list[Block]]:
    """The chains of blocks that the live ones lie in."""
    chains: dict[int, list[Block]] = {}
    for _, block in live:
        while block.previous is not None:
            block = block.previous
        chain = [block]
        while chain[-1].next is not None:
            assert chain[-1].next.previous is chain[-1]
            chain.append(chain[-1].next)
        chains[block.address] = chain
    return [chains[address] for address in sorted(chains)]


@any_sequence
@given(events)
def test_live_blocks_hold_their_requests_and_never_overlap(sequence: Events) -> None:
    allocator, live = CachingAllocator(), list[tuple[int, Block]]()
    play(allocator, sequence, live)
    assert allocator.allocated == sum(block.size for _, block in live)
    assert allocator.reserved >= allocator.allocated
    for size, block in live:
        assert not block.free
        assert size <= block.size <= (size + 511) // 512 * 512 + (0 if block.small else MIB)
        assert block.address % 512 == 0
    spans = sorted((block.address, block.address + block.size) for _, block in live)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@any_sequence
@given(events)
def test_segments_are_covered_without_gap_and_free_neighbours_are_merged(sequence: Events) -> None:
    allocator, live = CachingAllocator(), list[tuple[int, Block]]()
    play(allocator, sequence, live)
    total = 0
    for chain in segments(live):
        assert len({block.small for block in chain}) == 1
        for block, after in pairwise(chain):
            assert block.address + block.size == after.address
            assert not (block.free and after.free)
        length = sum(block.size for block in chain)
        assert length == 2 * MIB if chain[0].small else length % (2 * MIB) == 0
        total += length
    assert total <= allocator.reserved


@any_sequence
@given(events)
def test_the_same_sequence_gives_the_same_addresses(sequence: Events) -> None:
    assert play(CachingAllocator(), sequence, []) == play(CachingAllocator(), sequence, [])


@any_sequence
@given(events)
def test_reserved_only_grows_and_only_by_whole_segments(sequence: Events) -> None:
    reserved = [after for _, _, after in play(CachingAllocator(), sequence, [])]
    for before, after in pairwise((0, *reserved)):
        assert after >= before
        assert (after - before) % (2 * MIB) == 0


@any_sequence
@given(events)
def test_after_everything_is_freed_whole_segments_are_available(sequence: Events) -> None:
    """Every segment is whole again: each block of 2 or 20 MiB, or larger, is allocated without a new one."""
    allocator, live = CachingAllocator(), list[tuple[int, Block]]()
    play(allocator, sequence, live)
    whole = [sum(block.size for block in chain) for chain in segments(live)]
    small = [chain[0].small for chain in segments(live)]
    for _, block in live:
        allocator.release(block)
    assert allocator.allocated == 0
    reserved = allocator.reserved
    for length, is_small in sorted(zip(whole, small, strict=True), reverse=True):
        for _ in range(2 if is_small else 1):
            allocator.allocate(MIB if is_small else length)
    assert allocator.reserved == reserved


@any_sequence
@given(st.lists(sizes, max_size=60))
def test_what_a_block_holds_beyond_its_request_is_bounded(requests: list[int]) -> None:
    """A block is above its request by less than 512 B of rounding and at most 1 MiB that was not split off."""
    allocator = CachingAllocator()
    for size in requests:
        allocator.allocate(size)
    exact = sum(requests)
    assert exact <= allocator.allocated <= allocator.reserved
    assert allocator.allocated <= exact + len(requests) * (512 + MIB)
