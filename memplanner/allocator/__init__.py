"""PyTorch's CUDA caching allocator: from a step program to the memory that is reserved for it."""

from typing import Final

SMALL_LIMIT: Final = 1 << 20
"""The largest request that the pool of small ones serves."""


class DeviceFullError(MemoryError):
    """The device cannot give another segment, with all unused ones returned to it."""
