"""The allocator in C says what the reference says."""

from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.allocator import DeviceFullError, Held, native, reference
from memplanner.program.stretch import Stretch
from memplanner.units import GIB, MIB
from tests.allocator.options import OPTIONS

pytestmark = pytest.mark.skipif(not native.is_available(), reason="installed without a C compiler")
TIB = 1 << 40


def events_of(requests: list[tuple[int, int]], sizes: list[int], *, keep: int) -> "array[int]":
    """Allocations of blocks whose sizes are added to `sizes`, and frees of some: of all but the first `keep`."""
    events = array("i")
    live: list[int] = []
    for size, action in requests:
        if action < 4 and live:
            events.append(~live.pop(size % len(live)))
        else:
            live.append(len(sizes))
            events.append(len(sizes))
            sizes.append(size)
    events.extend(~number for number in live[keep:])
    return events


def peak(replay: reference.Replay | native.Replay, sizes: list[int], **options: Any) -> Held | None:
    """What a replay says; None where the device is full."""
    try:
        return replay.run(sizes, **options)
    except DeviceFullError:
        return None


def requests(*sizes: st.SearchStrategy[int]) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.one_of(*sizes), st.integers(0, 9)), max_size=80)


@pytest.mark.parametrize("limit", [None, 200 * MIB], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(asked=requests(st.integers(1, 2 * MIB), st.integers(1, 80 * MIB)), times=st.integers(1, 4))
def test_the_peak_is_the_same(
    options: dict[str, Any], limit: int | None, asked: list[tuple[int, int]], times: int
) -> None:
    """Some requests, then others, which are all freed, several times."""
    sizes: list[int] = []
    half = len(asked) // 2
    before, again = events_of(asked[:half], sizes, keep=len(asked)), events_of(asked[half:], sizes, keep=0)
    stretches = [Stretch(before), Stretch(again, times)]
    in_c, in_python = native.Replay(stretches), reference.Replay(stretches)
    assert peak(in_c, sizes, limit=limit, **options) == peak(in_python, sizes, limit=limit, **options)


@pytest.mark.parametrize("limit", [None, 5 * TIB, 1 << 70], ids=str)
@pytest.mark.parametrize("options", [*OPTIONS, {"max_split_size": 2 * TIB}, {"max_split_size": 1 << 70}], ids=str)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    asked=requests(
        st.integers(1, 40 * MIB),
        st.integers(1, 3 * TIB),
        st.integers(0, 20 * MIB).map(lambda more: TIB + more),
        st.integers(1, 1 << 54),
    ),
    times=st.integers(1, 3),
)
def test_the_peak_is_the_same_beyond_a_tib(
    options: dict[str, Any], limit: int | None, asked: list[tuple[int, int]], times: int
) -> None:
    sizes: list[int] = []
    half = len(asked) // 2
    before, again = events_of(asked[:half], sizes, keep=len(asked)), events_of(asked[half:], sizes, keep=0)
    stretches = [Stretch(before), Stretch(again, times)]
    in_c, in_python = native.Replay(stretches), reference.Replay(stretches)
    assert peak(in_c, sizes, limit=limit, **options) == peak(in_python, sizes, limit=limit, **options)


@pytest.mark.parametrize("small", [True, False])
@settings(max_examples=300, deadline=None, derandomize=True)
@given(asked=requests(st.integers(1, 1 << 30)))
def test_the_peak_of_one_pool_is_the_same(small: bool, asked: list[tuple[int, int]]) -> None:
    sizes: list[int] = []
    stretches = [Stretch(events_of(asked, sizes, keep=len(asked)))]
    sizes = [512 * (1 + size % 2048) if small else MIB + 512 * (1 + size % (1 << 18)) for size in sizes]
    assert native.Replay(stretches).run(sizes) == reference.Replay(stretches).run(sizes)


@pytest.mark.parametrize("small", [True, False])
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    standing=st.lists(st.integers(1, 1 << 30), max_size=12),
    asked=st.lists(st.tuples(st.integers(1, 1 << 30), st.integers(0, 9)), min_size=1, max_size=40),
    times=st.integers(2, 6),
)
def test_stretches_that_leave_the_pool_unchanged_give_the_same_peak(
    small: bool, standing: list[int], asked: list[tuple[int, int]], times: int
) -> None:
    """Some blocks, every second of them freed; then a stretch that frees what it allocates, several times."""
    sizes = list(standing)
    before = array("i", [*range(len(sizes)), *(~i for i in range(0, len(sizes), 2))])
    stretches = [Stretch(before), Stretch(events_of(asked, sizes, keep=0), times)]
    sizes = [512 * (1 + size % 2048) if small else MIB + 512 * (1 + size % (1 << 16)) for size in sizes]
    assert native.Replay(stretches).run(sizes) == reference.Replay(stretches).run(sizes)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    tensors=st.lists(st.tuples(st.integers(0, 4 * MIB), st.booleans()), min_size=1, max_size=12),
    standing=st.lists(st.integers(0, 30 * MIB), max_size=5),
    times=st.integers(1, 7),
)
def test_copies_of_tensors_are_the_same(
    options: dict[str, Any], tensors: list[tuple[int, bool]], standing: list[int], times: int
) -> None:
    """Of every block's tensors some stay until the way back; some have no bytes. Twice, after what is there always."""
    bits = (times - 1).bit_length()
    first = len(tensors)
    block = array("i", [i << bits for i in range(first)])
    block.extend(~(i << bits) for i, (_, stays) in enumerate(tensors) if not stays)
    back = array("i", [~((i << bits) + times - 1) for i, (_, stays) in enumerate(tensors) if stays])
    step = [Stretch(block, times, 1), Stretch(back, times, -1)]
    there = Stretch(array("i", [(first + i) << bits for i in range(len(standing))]), times, 1)
    sizes = [0 if size < 512 else size for size, _ in tensors] + standing
    stretches = [there, *step, *step]
    in_c, in_python = native.Replay(stretches, bits=bits), reference.Replay(stretches, bits=bits)
    whole = in_c.run(sizes, **options)
    assert whole == in_python.run(sizes, **options)
    small, large = ([size if (size <= MIB) == small else 0 for size in sizes] for small in (True, False))
    assert in_c.run(small, **options).reserved + in_c.run(large, **options).reserved == whole.reserved


def test_an_end_that_is_too_large_to_be_found_is_used_as_it_is() -> None:
    events = array("i", (0, ~0, 1, 2))
    replay = native.Replay([Stretch(events)])
    sizes = [100 * MIB, 10 * MIB, 90 * MIB]
    assert replay.run(sizes, expandable_segments=True, max_split_size=50 * MIB).reserved == 100 * MIB


@pytest.mark.parametrize("sizes", [[1 << 62], [1 << 100], [1 << 61, 1 << 61], [1 << 60] * 5, [-512]], ids=str)
def test_totals_of_4_eib_overflow(sizes: list[int]) -> None:
    with pytest.raises(OverflowError):
        native.Replay([Stretch(array("i", range(len(sizes))))]).run(sizes)


@pytest.mark.parametrize(
    "size", [TIB - 512, TIB, TIB + 512, 1 << 50, (1 << 60) - 2 * MIB, (1 << 62) - 2 * MIB], ids=str
)
def test_totals_below_4_eib_do_not_overflow(size: int) -> None:
    """The block is freed and asked for again, at the same size and at the least that is too large for it."""
    replay = native.Replay([Stretch(array("i", (0, ~0, 0, ~0)))])
    segment = -(-size // (2 * MIB)) * 2 * MIB
    assert replay.run([size]).reserved == segment
    if size < 1 << 60:
        replay = native.Replay([Stretch(array("i", (0, ~0, 1)))])
        assert replay.run([size, segment + 512]).reserved == 2 * segment + 2 * MIB


def test_a_model_of_many_layers_in_which_nothing_is_freed() -> None:
    stretches = [Stretch(array("i", (0, 1 << 10)), 1 << 10, 1)]
    replay = native.Replay(stretches, bits=10)
    assert replay.run([GIB, 16 * MIB]).reserved == 1024 * (GIB + 16 * MIB)


@pytest.mark.parametrize(
    "events",
    [(~0,), (0, 0), (0, ~0, ~0), (1,), (~1,), (1 << 30,)],
    ids=["never there", "there already", "freed before", "no tensor", "free of no tensor", "far away"],
)
def test_an_inconsistent_log_is_refused(events: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="a block is allocated that is there already, or freed that is not"):
        native.Replay([Stretch(array("i", events))]).run([512])


@pytest.mark.parametrize("step", [1, -1, 1 << 40])
def test_copies_beyond_a_tensors_number_are_refused(step: int) -> None:
    with pytest.raises(AssertionError, match="a block is allocated that is there already, or freed that is not"):
        native.Replay([Stretch(array("i", (1,)), 4, step)], bits=1).run([512, 512])
