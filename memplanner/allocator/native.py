"""The caching allocator's replay in C (allocator.c), where a compiler was at hand when memplanner was installed."""

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from memplanner.allocator.reference import DeviceFullError
from memplanner.program.decode import Stretch

LIBRARY: Final = Path(__file__).parent / "_allocator.so"
_DEVICE_FULL, _NO_MEMORY, _TOO_LARGE, _IMPOSSIBLE = -1, -2, -3, -4
LARGEST: Final = 1 << 58
"""Bytes of all blocks together, up to which nothing in a few steps can leave 64 bits."""


class _Stretch(ctypes.Structure):
    _fields_ = [
        ("events", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("times", ctypes.c_int64),
        ("step", ctypes.c_int64),
    ]


@cache
def _function() -> Any:
    """memplanner_peak_reserved; None where it was not compiled."""
    try:
        function = ctypes.CDLL(str(LIBRARY)).memplanner_peak_reserved
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int64
    function.argtypes = [
        ctypes.POINTER(_Stretch),
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int32,
        ctypes.c_int64,
        ctypes.c_int64,
    ]
    return function


def is_available() -> bool:
    """Whether it was compiled."""
    return _function() is not None


def peak_reserved(
    stretches: Sequence[Stretch],
    sizes: Sequence[int],
    kept: Sequence[int] = (),
    *,
    bits: int = 0,
    expandable_segments: bool = False,
    max_split_size: int | None = None,
    limit: int | None = None,
) -> int:
    """The most bytes of segments during the events; DeviceFullError where the limit is not enough, OverflowError where
    they come to a TiB: Python's own replay has no such end.

    sizes: bytes of 2^bits blocks each; kept: bytes of the blocks after those; 0 for what the allocator has nothing to
    do with; all together at most LARGEST. The options are CachingAllocator's.
    """
    table = (_Stretch * len(stretches))(
        *(_Stretch(events.buffer_info()[0], len(events), times, step) for events, times, step in stretches)
    )
    logged = len(sizes) << bits
    words, kept_words = array("q", sizes), array("q", kept)
    answer: int = _function()(
        table,
        len(stretches),
        words.buffer_info()[0],
        bits,
        logged,
        kept_words.buffer_info()[0],
        logged + len(kept),
        expandable_segments,
        -1 if max_split_size is None else max_split_size,
        -1 if limit is None else limit,
    )
    if answer == _DEVICE_FULL:
        raise DeviceFullError
    if answer == _NO_MEMORY:
        raise MemoryError
    if answer == _TOO_LARGE:
        raise OverflowError("segments of a TiB and more")
    if answer == _IMPOSSIBLE:
        raise AssertionError("a block is allocated that is there already, or freed that is not")
    return answer
