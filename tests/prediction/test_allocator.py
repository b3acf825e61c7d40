"""The caching allocator: sequences worked by hand, and what must hold of all."""

import tomllib
from array import array
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.allocator import native
from memplanner.allocator.pool import one_by_one, segment_bytes
from memplanner.allocator.reference import CachingAllocator, DeviceFullError
from memplanner.allocator.reserved import forget
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.program.decode import Stretch

KIB, MIB = 1 << 10, 1 << 20


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
    if native.is_available():
        events = array("i", (0, ~0, 1, 2))
        assert native.peak_reserved([Stretch(events)], [100 * MIB, 10 * MIB, 90 * MIB], **options) == 100 * MIB


OPTIONS: list[dict[str, Any]] = [
    {},
    {"expandable_segments": True},
    {"max_split_size": 20 * MIB},
    {"expandable_segments": True, "max_split_size": 30 * MIB},
    {"expandable_segments": True, "max_split_size": 5 * MIB},
]
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


@pytest.mark.parametrize("small", [True, False])
@settings(max_examples=300, deadline=None, derandomize=True)
@given(requests=st.lists(st.tuples(st.integers(1, 1 << 30), st.integers(0, 9)), max_size=80))
def test_the_tight_loop_over_a_pool_says_what_the_allocator_says(small: bool, requests: list[tuple[int, int]]) -> None:
    allocator = CachingAllocator()
    events: list[int] = []
    sizes: list[int] = []
    live: list[tuple[int, Any]] = []
    for number, action in requests:
        if action < 4 and live:
            freed, block = live.pop(number % len(live))
            allocator.release(block)
            events.append(~freed)
        else:
            size = 512 * (1 + number % 2048) if small else MIB + 512 * (1 + number % (1 << 18))
            live.append((len(sizes), allocator.allocate(size)))
            events.append(len(sizes))
            sizes.append(size)
    assert segment_bytes([Stretch(array("i", events))], sizes, small=small) == allocator.reserved


@pytest.mark.parametrize("small", [True, False])
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    held=st.lists(st.integers(1, 1 << 30), max_size=12),
    requests=st.lists(st.tuples(st.integers(1, 1 << 30), st.integers(0, 9)), min_size=1, max_size=40),
    times=st.integers(2, 6),
)
def test_what_restores_a_pool_is_replayed_only_until_it_does(
    small: bool, held: list[int], requests: list[tuple[int, int]], times: int
) -> None:
    """Some blocks, every second of them freed; then a stretch that frees what it allocates, several times."""

    def fitting(number: int) -> int:
        return 512 * (1 + number % 2048) if small else MIB + 512 * (1 + number % (1 << 16))

    sizes = [fitting(number) for number in held]
    before = [*range(len(sizes)), *(~i for i in range(0, len(sizes), 2))]
    stretch: list[int] = []
    live: list[int] = []
    for number, action in requests:
        if action < 4 and live:
            stretch.append(~live.pop(number % len(live)))
        else:
            live.append(len(sizes))
            stretch.append(len(sizes))
            sizes.append(fitting(number))
    stretch += [~i for i in live]
    allocator = CachingAllocator()
    blocks: dict[int, Any] = {}
    for event in before + stretch * times:
        if event >= 0:
            blocks[event] = allocator.allocate(sizes[event])
        else:
            allocator.release(blocks[~event])
    stretches = [Stretch(array("i", before)), Stretch(array("i", stretch), times)]
    assert segment_bytes(stretches, sizes, small=small) == allocator.reserved
    if native.is_available():
        assert native.peak_reserved(stretches, sizes) == allocator.reserved


def played(requests: list[tuple[int, int]], times: int, **options: Any) -> tuple[list[Stretch], list[int], int | None]:
    """Some requests, then others, which are all freed, several times: as stretches, sizes, and what CachingAllocator
    reserves at the most (None: the device is full).
    """
    sizes: list[int] = []

    def events(part: list[tuple[int, int]], kept: int) -> list[int]:
        found: list[int] = []
        live: list[int] = []
        for size, action in part:
            if action < 4 and live:
                found.append(~live.pop(size % len(live)))
            else:
                live.append(len(sizes))
                found.append(len(sizes))
                sizes.append(size)
        return found + [~i for i in live[kept:]]

    half = len(requests) // 2
    before, stretch = events(requests[:half], len(requests)), events(requests[half:], 0)
    allocator = CachingAllocator(**options)
    blocks: dict[int, Any] = {}
    peak: int | None
    try:
        for event in before + stretch * times:
            if event >= 0:
                blocks[event] = allocator.allocate(sizes[event])
            else:
                allocator.release(blocks[~event])
        peak = allocator.peak_reserved
    except DeviceFullError:
        peak = None
    return [Stretch(array("i", before)), Stretch(array("i", stretch), times)], sizes, peak


@pytest.mark.skipif(not native.is_available(), reason="installed without a C compiler")
@pytest.mark.parametrize("limit", [None, 200 * MIB], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    requests=st.lists(
        st.tuples(st.one_of(st.integers(1, 2 * MIB), st.integers(1, 80 * MIB)), st.integers(0, 9)), max_size=80
    ),
    times=st.integers(1, 4),
)
def test_the_compiled_allocator_says_what_the_allocator_says(
    options: dict[str, Any], limit: int | None, requests: list[tuple[int, int]], times: int
) -> None:
    stretches, sizes, peak = played(requests, times, limit=limit, **options)
    try:
        found: int | None = native.peak_reserved(stretches, sizes, limit=limit, **options)
    except DeviceFullError:
        found = None
    assert found == peak


@pytest.mark.skipif(not native.is_available(), reason="installed without a C compiler")
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    tensors=st.lists(st.tuples(st.integers(0, 4 * MIB), st.booleans()), min_size=1, max_size=12),
    kept=st.lists(st.integers(0, 30 * MIB), max_size=5),
    times=st.integers(1, 7),
)
def test_blocks_after_one_another_are_the_same_compiled_and_not(
    tensors: list[tuple[int, bool]], kept: list[int], times: int
) -> None:
    """Of every block's tensors some stay until the end; what is smaller than 512 bytes is left out."""
    given_sizes = [0 if size < 512 else -(-size // 512) * 512 for size, _ in tensors]
    bits = (times - 1).bit_length()
    first = len(tensors) << bits
    block = array("i", [i << bits for i in range(len(tensors))])
    block.extend(~(i << bits) for i, (_, stays) in enumerate(tensors) if not stays)
    back = array("i", [~((i << bits) + times - 1) for i, (_, stays) in enumerate(tensors) if stays])
    story = [Stretch(array("i", range(first, first + len(kept)))), Stretch(block, times, 1), Stretch(back, times, -1)]
    sizes = [size for size in given_sizes for _ in range(1 << bits)] + kept
    allocator = CachingAllocator()
    blocks: dict[int, Any] = {}
    for stretch in (*story, *story[1:]):
        for event in (event for part in one_by_one(stretch) for event in part):
            if event >= 0 and sizes[event]:
                blocks[event] = allocator.allocate(sizes[event])
            elif event < 0 and sizes[~event]:
                allocator.release(blocks[~event])
    found = native.peak_reserved([*story, *story[1:]], given_sizes, kept, bits=bits)
    assert found == allocator.peak_reserved
    by_pool = 0
    for small in (True, False):
        own = [-(-size // 512) * 512 if (size <= MIB) == small else 0 for size in sizes]
        by_pool += segment_bytes([*story, *story[1:]], own, small=small)
    assert by_pool == found


@pytest.mark.skipif(not native.is_available(), reason="installed without a C compiler")
@pytest.mark.parametrize("allocator", ["{}", "{ expandable_segments = true }", "{ max_split_size = '64MiB' }"])
@pytest.mark.parametrize("model", ["llama-60m", "gpt2"])
def test_predictions_are_the_same_without_the_compiled_one(
    model: str, allocator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"model": model, "allocator": tomllib.loads(f"x = {allocator}")["x"], "method": "lora"}

    def reserved(**more: Any) -> list[int]:
        forget()
        estimate = predict(TrainingPlan.model_validate(table | more))
        return [estimate.reserved_bytes, estimate.expandable_saving_bytes]

    wanted = reserved()
    tight = {"device": {"kind": "size", "memory": f"{wanted[0] - 4 * MIB}B"}}  # unused segments are to be returned
    squeezed = reserved(**tight)
    monkeypatch.setattr(native, "is_available", lambda: False)
    assert (reserved(), reserved(**tight)) == (wanted, squeezed)
    forget()


@pytest.mark.skipif(not native.is_available(), reason="installed without a C compiler")
@pytest.mark.parametrize("sizes", [[1 << 40], [1 << 57], [1 << 39, 1 << 39], [1 << 38] * 5])
def test_segments_of_a_tib_are_left_to_python(sizes: list[int]) -> None:
    with pytest.raises(OverflowError):
        native.peak_reserved([Stretch(array("i", range(len(sizes))))], sizes)
    less = [size // 16 for size in sizes if size < 1 << 42]
    assert native.peak_reserved([Stretch(array("i", range(len(less))))], less) == sum(less)


def test_more_than_64_bits_hold_is_left_to_python() -> None:
    step = {"batch_size": 1 << 20, "seq_len": 1 << 24}
    estimate = predict(TrainingPlan.model_validate({"model": "llama-7b", "step": step}))
    assert estimate.reserved_bytes > 1 << 62


@pytest.mark.skipif(not native.is_available(), reason="installed without a C compiler")
@pytest.mark.parametrize("events", [(~0,), (0, 0), (0, ~0, ~0)], ids=["never there", "there already", "freed before"])
def test_a_log_that_cannot_be_is_refused(events: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="a block is allocated that is there already, or freed that is not"):
        native.peak_reserved([Stretch(array("i", events))], [512])
