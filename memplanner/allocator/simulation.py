"""What the caching allocator holds in a training step: the segments that it reserves, and its blocks in use.

The step's events are replayed in C where that was compiled, else in Python (reference.py).
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import chain, groupby
from typing import TYPE_CHECKING, Final

from memplanner.allocator import Held, native
from memplanner.frozen import Frozen
from memplanner.program.decode import decoded
from memplanner.program.program import Persistent, StepProgram, Structure
from memplanner.program.stretch import Stretch
from memplanner.timeline import Category, Phase

if TYPE_CHECKING:
    from memplanner.allocator import reference

Group = tuple[int, tuple[int, ...]]
"""Tensors that are made and then stay: how many equal blocks of the model have them, and the bytes of each tensor in
one such block. They are made block by block.
"""
MADE_LATE: Final[tuple[Category, ...]] = ("gradients", "optimizer_state", "projectors")
"""Persistent tensors that the first step makes, before its update."""


class Footprint(Frozen, kw_only=False):
    """What the allocator holds in two steps, in bytes.

    reserved: the most of all segments (torch.cuda.max_memory_reserved). phases: for each phase, the most of all blocks
    in use (torch.cuda.max_memory_allocated) and those at its end. A block is larger than its tensor by what the
    allocator does not split off. loaded: the blocks before the first step.
    """

    reserved: int
    loaded: int
    phases: Mapping[Phase, tuple[int, int]]


class AllocatorSimulation:
    """Answers what is held for training steps. It remembers the events of the last kinds of steps, which do not depend
    on the tensors' sizes, and its last answers.
    """

    def __init__(self) -> None:
        self._two_steps = lru_cache(maxsize=32)(_TwoSteps)
        self._groups = lru_cache(maxsize=32)(_groups)
        self._footprint = lru_cache(maxsize=64)(_footprint)

    def footprint(
        self,
        program: StepProgram,
        *,
        skip: frozenset[int] = frozenset(),
        expandable_segments: bool = False,
        max_split_size: int | None = None,
        limit: int | None = None,
    ) -> Footprint:
        """What two steps of the program hold, the first of which makes the optimizer's states.

        skip: tensors to leave out. The options are CachingAllocator's. DeviceFullError where a limit is given and no
        return of unused segments makes the steps fit.
        """
        early, late = self._groups(program.persistent)
        steps = self._two_steps(program.structure, _shape(early), _shape(late))
        own = program.sizes
        if skip:
            own = tuple([0 if index in skip else size for index, size in enumerate(own)])
        sizes = (*own, *steps.numbered(early), *steps.numbered(late))
        return self._footprint(steps, sizes, expandable_segments, max_split_size, limit)


def _groups(persistent: Persistent) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """What is there before the first step, and what the first step makes before its update."""

    def groups(*, made_late: bool) -> Iterator[Group]:
        tensors = (t for t in persistent if (t.category in MADE_LATE) is made_late)
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
        second: list[tuple[Phase | None, Stretch]] = [*((None, stretch) for stretch in step.left), *before, *after]
        first: list[tuple[Phase | None, Stretch]] = [*before, *((None, stretch) for stretch in made_late), *after]
        self._loading = len(made_early)
        self._phases: tuple[Phase | None, ...] = tuple(phase for phase, _ in (*first, *second))
        self._events = (*made_early, *(stretch for _, stretch in (*first, *second)))
        self.in_c = native.Replay(self._events, bits=step.bits)

    @cached_property
    def in_python(self) -> "reference.Replay":
        """The events for reference.py, which is loaded only where C cannot answer."""
        from memplanner.allocator import reference

        return reference.Replay(self._events, bits=self._bits)

    def footprint(self, held: Held) -> Footprint:
        """What the allocator held, by phases of the two steps."""
        loading = self._loading
        phases: dict[Phase, tuple[int, int]] = {}
        for phase, peak, end in zip(self._phases, held.peaks[loading:], held.ends[loading:], strict=True):
            if phase is not None:
                phases[phase] = max(peak, phases.get(phase, (0, 0))[0]), end
        return Footprint(held.reserved, held.ends[loading - 1] if loading else 0, phases)

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


def _footprint(
    steps: _TwoSteps, sizes: tuple[int, ...], expandable_segments: bool, max_split_size: int | None, limit: int | None
) -> Footprint:
    """What the steps hold. In Python where C is not there or has no room for the numbers."""
    if native.is_available():
        with suppress(OverflowError):
            held = steps.in_c.run(
                sizes, expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit
            )
            return steps.footprint(held)
    held = steps.in_python.run(
        sizes, expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit
    )
    return steps.footprint(held)
