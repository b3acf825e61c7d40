"""From a log of births and deaths to what was alive when, by category. Knows neither torch nor devices.

A block's address can be used again after it is freed: what an address stands for is asked at the marks, where the
harness looks at the model, its gradients and the optimizer's states.
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
    """What is known of it at birth or soon after; marks may say more."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a phase: what the addresses alive there are."""

    phase: Phase
    position: int
    """Events so far."""
    roles: Mapping[int, Category]
    """Address → category, of whatever is not an activation or a temporary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One phase: the most alive within it, and what is alive at its end, in bytes and by category."""

    phase: Phase
    peak_bytes: int
    end_bytes: int
    at_peak: dict[Category, int]
    at_end: dict[Category, int]


@dataclass(slots=True)
class _Block:
    size: int
    category: Category
    gone: int = field(default=1 << 62)


def read_history(initial: list[Event], events: list[Event], marks: list[Mark]) -> list[Reading]:
    """One reading per mark; a phase runs from the mark before.

    initial: what was alive before the first event.
    """
    born: list[tuple[int, _Block]] = []
    alive: dict[int, _Block] = {}
    blocks = [_block(event) for event in initial]
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
            block = alive[event.address] = _block(event)
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


def _block(event: Event) -> _Block:
    return _Block(event.size, event.category)


def _sums(blocks: list[tuple[int, _Block]], position: int) -> dict[Category, int]:
    """Bytes by category of what is alive after the first `position` events."""
    sums: Counter[Category] = Counter()
    for birth, block in blocks:
        if birth >= position:
            break
        if block.gone >= position:
            sums[block.category] += block.size
    return {category: sums[category] for category in CATEGORIES if sums[category]}
