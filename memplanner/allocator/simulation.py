"""How many bytes of segments the caching allocator reserves for a training step.

The step's events are replayed in C where that was compiled, else in Python (reference.py).

The allocator's two pools, of requests up to 1 MiB and of larger ones, share nothing but the device's memory. As long as
that suffices, each is replayed by itself and its answer is remembered: of plans that differ in their rank or batch, the
requests of one pool are often the same, which saves a sweep a tenth of its time and more (benchmarks/sweep.py).
"""

import math
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

from memplanner.allocator import native, reference
from memplanner.allocator.decode import decode
from memplanner.allocator.reference import SMALL_LIMIT
from memplanner.allocator.stretch import Stretch
from memplanner.tape.engine import Run

Group = tuple[int, tuple[int, ...]]
"""Tensors that are made and then stay: how many equal blocks of the model have them, and the bytes of each tensor in
one such block. They are made block by block.
"""
_values_of: Callable[[Run], tuple[Any, ...]] = attrgetter(*(field.name for field in fields(Run)))
"""A run's fields, which can be compared and hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """All that a training step asks of the allocator.

    log, runs, reps: the tape's; sizes: bytes of one copy of each tensor on it. update: the position in the log at which
    the optimizer's update begins. early: tensors made before the first step. late: tensors that the first step makes
    before its update.
    """

    log: Sequence[int]
    update: int
    runs: Sequence[Run]
    reps: Sequence[int]
    sizes: Sequence[int]
    early: tuple[Group, ...]
    late: tuple[Group, ...]


class AllocatorSimulation:
    """Answers what is reserved for training steps. It remembers the events of the last kinds of steps, which do not
    depend on the tensors' sizes, and the answers to the last requests of each pool.
    """

    def __init__(self) -> None:
        self._two_steps = lru_cache(maxsize=32)(_TwoSteps)
        self._peak = lru_cache(maxsize=1 << 11)(_peak)

    def reserved_bytes(
        self,
        requests: Requests,
        *,
        expandable_segments: bool = False,
        max_split_size: int | None = None,
        limit: int | None = None,
    ) -> int:
        """The most bytes of segments in two steps, the first of which makes the optimizer's states.

        The options are CachingAllocator's. DeviceFullError where a limit is given and no return of unused segments
        makes the steps fit.
        """
        steps = self._two_steps(
            tuple(requests.log),
            requests.update,
            tuple(map(_values_of, requests.runs)),
            tuple(requests.reps),
            _shape(requests.early),
            _shape(requests.late),
        )
        sizes = (*requests.sizes, *steps.numbered(requests.early), *steps.numbered(requests.late))
        if limit is not None:
            return self._peak(steps, sizes, expandable_segments, max_split_size, limit)
        small = tuple([size if size <= SMALL_LIMIT else 0 for size in sizes])
        large = tuple([size if size > SMALL_LIMIT else 0 for size in sizes])
        return sum(self._peak(steps, pool, expandable_segments, max_split_size, None) for pool in (small, large))


def _shape(groups: Sequence[Group]) -> tuple[tuple[int, int], ...]:
    """The groups without their bytes: of each, how many blocks have how many tensors."""
    return tuple([(count, len(sizes)) for count, sizes in groups])


class _TwoSteps:
    """The events of two steps, whatever the tensors' sizes.

    The tensors of the log are numbered first, then those of the early and of the late groups. The log decides for how
    many copies of a tensor there are numbers; where a group has more, its tensors are numbered several times, each time
    for another part of the copies.
    """

    def __init__(
        self,
        log: tuple[int, ...],
        update: int,
        runs: tuple[tuple[Any, ...], ...],
        reps: tuple[int, ...],
        early: tuple[tuple[int, int], ...],
        late: tuple[tuple[int, int], ...],
    ) -> None:
        decoded = decode(log, update, [Run(*values) for values in runs], reps)
        self._bits = decoded.bits
        made_early = self._made(early, len(reps))
        made_late = self._made(late, len(reps) + sum(len(stretch.events) for stretch in made_early))
        first = (*made_early, *decoded.before, *made_late, *decoded.after)
        second = (*decoded.left, *decoded.before, *decoded.after)
        self.in_python = reference.Replay((*first, *second), bits=decoded.bits)
        self.in_c = native.Replay((*first, *second), bits=decoded.bits)

    def numbered(self, groups: Sequence[Group]) -> list[int]:
        """Bytes of the groups' tensors, in the order of their numbers."""
        most = 1 << self._bits
        return list(chain.from_iterable(sizes * math.ceil(count / most) for count, sizes in groups))

    def _made(self, groups: Sequence[tuple[int, int]], tensor: int) -> list[Stretch]:
        """Allocations of the groups' tensors, numbered from `tensor` on."""
        most = 1 << self._bits
        stretches: list[Stretch] = []
        for count, tensors in groups:
            for done in range(0, count, most):
                first_copies = array("i", range(tensor * most, (tensor + tensors) * most, most))
                stretches.append(Stretch(first_copies, min(count - done, most), 1))
                tensor += tensors
        return stretches


def _peak(
    steps: _TwoSteps, sizes: tuple[int, ...], expandable_segments: bool, max_split_size: int | None, limit: int | None
) -> int:
    """The most bytes of segments. In Python where C is not there or has no room for the numbers."""
    if native.is_available():
        with suppress(OverflowError):
            return steps.in_c.peak_reserved(
                sizes, expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit
            )
    return steps.in_python.peak_reserved(
        sizes, expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit
    )
