"""The caching allocator's replay in C (allocator.c), where a compiler was at hand when memplanner was installed."""

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from memplanner.prediction.allocator import DeviceFullError

LIBRARY: Final = Path(__file__).parent / "_allocator.so"
_DEVICE_FULL, _NO_MEMORY = -1, -2
LARGEST: Final = 1 << 58
"""Bytes of all blocks together, up to which nothing in a few steps can leave 64 bits."""


class _Stretch(ctypes.Structure):
    _fields_ = [("events", ctypes.c_void_p), ("count", ctypes.c_int64), ("times", ctypes.c_int64)]


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
    stretches: Sequence[tuple["array[int]", int]],
    sizes: "array[int]",
    *,
    expandable_segments: bool = False,
    max_split_size: int | None = None,
    limit: int | None = None,
) -> int:
    """The most bytes of segments during the events; DeviceFullError where the limit is not enough.

    stretches: events (type "i": n where block n is allocated, ~n where it is freed) and how often they happen in a row;
    those that happen several times free all that they allocate, and nothing else. sizes: bytes of every block, type
    "q", at most LARGEST together. The options are CachingAllocator's.
    """
    table = (_Stretch * len(stretches))(*(_Stretch(e.buffer_info()[0], len(e), times) for e, times in stretches))
    answer: int = _function()(
        table,
        len(stretches),
        sizes.buffer_info()[0],
        len(sizes),
        expandable_segments,
        -1 if max_split_size is None else max_split_size,
        -1 if limit is None else limit,
    )
    if answer == _DEVICE_FULL:
        raise DeviceFullError
    if answer == _NO_MEMORY:
        raise MemoryError
    return answer
