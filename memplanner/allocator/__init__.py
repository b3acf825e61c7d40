"""PyTorch's CUDA caching allocator: from a step program to the memory that is reserved for it."""

from typing import Final, NamedTuple

SMALL_LIMIT: Final = 1 << 20
"""The largest request that the pool of small ones serves."""


class Held(NamedTuple):
    """What an allocator held while it served a row of stretches, in bytes.

    reserved: the most of all segments. peaks, ends: of all blocks in use, for each stretch the most at any time in it
    and those at its end.
    """

    reserved: int
    peaks: tuple[int, ...]
    ends: tuple[int, ...]


class DeviceFullError(MemoryError):
    """The device cannot give another segment, with all unused ones returned to it."""
