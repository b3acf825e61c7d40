"""What the allocator can be asked to do otherwise."""

from typing import Any, Final

from memplanner.units import MIB

OPTIONS: Final[list[dict[str, Any]]] = [
    {},
    {"expandable_segments": True},
    {"max_split_size": 20 * MIB},
    {"expandable_segments": True, "max_split_size": 30 * MIB},
    {"expandable_segments": True, "max_split_size": 5 * MIB},
]
