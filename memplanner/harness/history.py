"""Finds from a log of births and deaths what was alive at each peak, by category. Knows neither torch nor devices.

An address can be used again after its block is freed, so it identifies a block only for a while. At the end of each
phase the harness therefore sets a mark, which says which of the addresses in use hold parameters, gradients or
optimizer states: it can look these up in the model and the optimizer at that moment.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from memplanner.timeline import CATEGORIES, Category, Phase


@dataclass(slots=True)
class Event:
    """A block's birth (size above zero) or death (size zero)."""

    address: int
    size: int
    category: Category = "temporaries"
    """The category at birth; a later mark may replace it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a phase, and what the addresses in use hold at that moment."""

    phase: Phase
    position: int
    """Number of events before the end of the phase."""
    roles: Mapping[int, Category]
    """Address → category. Blocks at other addresses keep the category of their birth: activations or temporaries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Bytes alive at the peak and at the end of one phase, in total and by category."""

    phase: Phase
    peak_bytes: int
    end_bytes: int
    at_peak: dict[Category, int]
    at_end: dict[Category, int]


@dataclass(slots=True)
class _LiveBlock:
    size: int
    category: Category
    gone: int = field(default=1 << 62)


def read_history(initial: list[Event], events: list[Event], marks: list[Mark]) -> list[Reading]:
    """One reading per mark; a phase runs from the previous mark to its own.

    initial: what was alive before the first event.
    """
    born: list[tuple[int, _LiveBlock]] = []
    alive: dict[int, _LiveBlock] = {}
    blocks = [_live_block(event) for event in initial]
    for event, block in zip(initial, blocks, strict=True):
        alive[event.address] = block
    live = sum(block.size for block in blocks)
    pending = list(marks)
    tops: list[tuple[int, int]] = []
    ends: list[int] = []
    top, top_at = live, 0

    def close(position: int) -> None:
        nonlocal top, top_at
        mark = pending.pop(0)
        for address, category in mark.roles.items():
            if address in alive:
                alive[address].category = category
        tops.append((top, top_at))
        ends.append(live)
        top, top_at = live, position

    for position, event in enumerate(events):
        while pending and pending[0].position <= position:
            close(position)
        if event.size:
            block = alive[event.address] = _live_block(event)
            born.append((position, block))
            live += event.size
            if live > top:
                top, top_at = live, position + 1
        else:
            dead = alive.pop(event.address, None)
            if dead is not None:
                dead.gone = position
                live -= dead.size
    while pending:
        close(len(events))
    everything = [(-1, block) for block in blocks] + born
    return [
        Reading(
            phase=mark.phase,
            peak_bytes=peak,
            end_bytes=end,
            at_peak=_sums(everything, at),
            at_end=_sums(everything, mark.position),
        )
        for mark, (peak, at), end in zip(marks, tops, ends, strict=True)
    ]


def _live_block(event: Event) -> _LiveBlock:
    return _LiveBlock(event.size, event.category)


def _sums(blocks: list[tuple[int, _LiveBlock]], position: int) -> dict[Category, int]:
    """Bytes by category of what is alive after the first `position` events."""
    sums: Counter[Category] = Counter()
    for birth, block in blocks:
        if birth >= position:
            break
        if block.gone >= position:
            sums[block.category] += block.size
    return {category: sums[category] for category in CATEGORIES if sums[category]}
