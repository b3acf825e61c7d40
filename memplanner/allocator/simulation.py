"""How many bytes of segments the caching allocator reserves for a training step.

The step's events are replayed in C where that was compiled, else in Python (reference.py).

The allocator's two pools, of requests up to 1 MiB and of larger ones, share nothing but the device's memory. As long as
that suffices, each is replayed by itself and its answer is remembered: of plans that differ in their rank or batch, the
requests of one pool are often the same, which saves a sweep a tenth of its time and more (benchmarks/sweep.py).
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import chain, groupby
from typing import TYPE_CHECKING, Final

from memplanner.allocator import SMALL_LIMIT, native
from memplanner.program.decode import decoded
from memplanner.program.program import Persistent, StepProgram, Structure
from memplanner.program.stretch import Stretch
from memplanner.timeline import Category

if TYPE_CHECKING:
    from memplanner.allocator import reference

Group = tuple[int, tuple[int, ...]]
"""Tensors that are made and then stay: how many equal blocks of the model have them, and the bytes of each tensor in
one such block. They are made block by block.
"""
_MADE_LATE: Final[tuple[Category, ...]] = ("gradients", "optimizer_state", "projectors")
"""Persistent tensors that the first step makes, before its update."""


class AllocatorSimulation:
    """Answers what is reserved for training steps. It remembers the events of the last kinds of steps, which do not
    depend on the tensors' sizes, and the answers to the last requests of each pool.
    """

    def __init__(self) -> None:
        self._two_steps = lru_cache(maxsize=32)(_TwoSteps)
        self._groups = lru_cache(maxsize=32)(_groups)
        self._peak = lru_cache(maxsize=1 << 11)(_peak)

    def reserved_bytes(
        self,
        program: StepProgram,
        *,
        expandable_segments: bool = False,
        max_split_size: int | None = None,
        limit: int | None = None,
    ) -> int:
        """The most bytes of segments in two steps of the program, the first of which makes the optimizer's states.

        The options are CachingAllocator's. DeviceFullError where a limit is given and no return of unused segments
        makes the steps fit.
        """
        early, late = self._groups(program.persistent)
        steps = self._two_steps(program.structure, _shape(early), _shape(late))
        sizes = (*program.sizes, *steps.numbered(early), *steps.numbered(late))
        if limit is not None:
            return self._peak(steps, sizes, expandable_segments, max_split_size, limit)
        small = tuple([size if size <= SMALL_LIMIT else 0 for size in sizes])
        large = tuple([size if size > SMALL_LIMIT else 0 for size in sizes])
        return sum(self._peak(steps, pool, expandable_segments, max_split_size, None) for pool in (small, large))


def _groups(persistent: Persistent) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """What is there before the first step, and what the first step makes before its update."""

    def groups(*, made_late: bool) -> Iterator[Group]:
        tensors = (t for t in persistent if (t.category in _MADE_LATE) is made_late)
        for copies, alike in groupby(tensors, lambda t: t.copies):
            yield copies, tuple(t.block_bytes // copies for t in alike)

    return tuple(groups(made_late=False)), tuple(groups(made_late=True))


def _shape(groups: Sequence[Group]) -> tuple[tuple[int, int], ...]:
    """The groups without their bytes: of each, how many blocks have how many tensors."""
    return tuple([(count, len(sizes)) for count, sizes in groups])


class _TwoSteps:
    """The events of two steps, whatever the tensors' sizes.

    The program's tensors are numbered first, then those of the early and of the late groups. The program decides for
    how many copies of a tensor there are numbers; where a group has more, its tensors are numbered several times, each
    time for another part of the copies.
    """

    def __init__(
        self, structure: Structure, early: tuple[tuple[int, int], ...], late: tuple[tuple[int, int], ...]
    ) -> None:
        step = decoded(structure)
        before, after = step.between(None, "update"), step.between("update", None)
        tensors = len(structure.copies)
        self._bits = step.bits
        made_early = self._made(early, tensors)
        made_late = self._made(late, tensors + sum(len(stretch.events) for stretch in made_early))
        self._events = (*made_early, *before, *made_late, *after, *step.left, *before, *after)
        self.in_c = native.Replay(self._events, bits=step.bits)

    @cached_property
    def in_python(self) -> "reference.Replay":
        """The events for reference.py, which is loaded only where C cannot answer."""
        from memplanner.allocator import reference

        return reference.Replay(self._events, bits=self._bits)

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
