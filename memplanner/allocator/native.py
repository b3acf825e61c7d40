"""The caching allocator in C (allocator.c), where a compiler was at hand when memplanner was installed.

It answers as reference.py does, some twenty times faster; property tests hold the two equal.
"""

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from memplanner.allocator import DeviceFullError, Held
from memplanner.program.stretch import Stretch

LIBRARY: Final = Path(__file__).parent / "_allocator.so"
_END: Final = 1 << 62
"""Bytes from which on allocator.c has no room for a block or for all segments together (LARGEST)."""
_DEVICE_FULL, _NO_MEMORY, _TOO_LARGE, _IMPOSSIBLE = -1, -2, -3, -4


class _Stretch(ctypes.Structure):
    """Stretch in allocator.c."""

    _fields_ = [
        ("events", ctypes.c_void_p),
        ("num_events", ctypes.c_int64),
        ("times", ctypes.c_int64),
        ("step", ctypes.c_int64),
    ]


@cache
def _function() -> Any:
    """memplanner_replay of allocator.c; None where it was not compiled."""
    try:
        function = ctypes.CDLL(str(LIBRARY)).memplanner_replay
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int64
    function.argtypes = [
        ctypes.POINTER(_Stretch),
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return function


def is_available() -> bool:
    """Whether it was compiled."""
    return _function() is not None


class Replay:
    """reference.Replay in C."""

    def __init__(self, stretches: Sequence[Stretch], *, bits: int = 0) -> None:
        self._stretches = tuple(stretches)  # keeps alive what the table points to
        self._bits = bits
        self._table = (_Stretch * len(self._stretches))(
            *(_Stretch(events.buffer_info()[0], len(events), times, step) for events, times, step in self._stretches)
        )

    def run(
        self,
        sizes: Sequence[int],
        *,
        expandable_segments: bool = False,
        max_split_size: int | None = None,
        limit: int | None = None,
    ) -> Held:
        """As reference.Replay says, and OverflowError where a block or all segments come to _END."""
        words = array("q", sizes)
        allocated = array("q", bytes(16 * len(self._table)))
        answer: int = _function()(
            self._table,
            len(self._table),
            words.buffer_info()[0],
            len(words),
            self._bits,
            expandable_segments,
            # more than _END is never reached, and would not be passed on whole
            -1 if max_split_size is None else min(max_split_size, _END),
            -1 if limit is None else min(limit, _END),
            allocated.buffer_info()[0],
        )
        if answer == _DEVICE_FULL:
            raise DeviceFullError
        if answer == _NO_MEMORY:
            raise MemoryError
        if answer == _TOO_LARGE:
            raise OverflowError(f"segments of {_END} bytes and more")
        if answer == _IMPOSSIBLE:
            raise AssertionError("a block is allocated that is there already, or freed that is not")
        return Held(answer, tuple(allocated[::2]), tuple(allocated[1::2]))
