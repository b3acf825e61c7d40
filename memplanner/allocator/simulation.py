"""What the caching allocator holds in a training step: the segments that it reserves, and its blocks in use.

The step's events are replayed in C where that was compiled, else in Python (reference.py).
"""

from array import array
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from memplanner.allocator import Held, native
from memplanner.allocator.making import made_early, made_late
from memplanner.frozen import Frozen
from memplanner.program.decode import decoded
from memplanner.program.program import StepProgram, Structure
from memplanner.program.stretch import Stretch
from memplanner.timeline import Phase

if TYPE_CHECKING:
    from memplanner.allocator import reference


class Footprint(Frozen, kw_only=False):
    """What the allocator holds in two steps, in bytes.

    reserved: the most of all segments (torch.cuda.max_memory_reserved). phases: for each phase, the most of all blocks
    in use (torch.cuda.max_memory_allocated) and those at its end. A block is larger than its tensor by what the
    allocator does not split off. loaded: the same of the time before the first step.
    """

    reserved: int
    loaded: tuple[int, int]
    phases: Mapping[Phase, tuple[int, int]]


class AllocatorSimulation:
    """Answers what is held for training steps. It remembers the events of the last kinds of steps, which do not depend
    on the tensors' sizes, and its last answers.
    """

    def __init__(self) -> None:
        self._two_steps = lru_cache(maxsize=32)(_TwoSteps)
        self._making = lru_cache(maxsize=32)(lambda persistent: (made_early(persistent), made_late(persistent)))
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
        early, late = self._making(program.persistent)
        steps = self._two_steps(program.structure, early.spans, late.spans)
        own = program.sizes
        if skip:
            own = tuple([0 if index in skip else size for index, size in enumerate(own)])
        sizes = (*own, *early.sizes * steps.parts_of_early, *late.sizes * steps.parts_of_late)
        return self._footprint(steps, sizes, expandable_segments, max_split_size, limit)


_Spans = tuple[tuple[int, tuple[int, ...]], ...]
"""Making.spans."""


class _TwoSteps:
    """The events of two steps, whatever the tensors' sizes.

    The program's tensors are numbered first, then those that are made early and those made late. The program decides
    for how many copies of a tensor there are numbers; where there are more, all of the early tensors are numbered in
    several parts, each time for other copies, and so are the late ones.
    """

    def __init__(self, structure: Structure, early: _Spans, late: _Spans) -> None:
        step = decoded(structure)
        before, after = step.between(None, "update"), step.between("update", None)
        tensors = len(structure.copies)
        self._bits = step.bits
        self.parts_of_early, self.parts_of_late = self._parts(early), self._parts(late)
        num_early = _num_tensors(early)
        made_early = self._made(early, tensors, num_early)
        made_late = self._made(late, tensors + num_early * self.parts_of_early, _num_tensors(late))
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
        loaded = (max(held.peaks[:loading]), held.ends[loading - 1]) if loading else (0, 0)
        return Footprint(held.reserved, loaded, phases)

    def _parts(self, spans: _Spans) -> int:
        return -(-max((copies for copies, _ in spans), default=0) // (1 << self._bits))

    def _made(self, spans: _Spans, first: int, count: int) -> list[Stretch]:
        """The spans' events; their tensors, of which there are `count`, are numbered from `first` on."""
        bits = self._bits
        stretches: list[Stretch] = []
        for copies, events in spans:
            for part in range(-(-copies // (1 << bits))):
                base = first + part * count
                numbers = array("i", [(base + e) << bits if e >= 0 else ~((base + ~e) << bits) for e in events])
                stretches.append(Stretch(numbers, min(copies - (part << bits), 1 << bits), 1))
        return stretches


def _num_tensors(spans: _Spans) -> int:
    return 1 + max((event for _, events in spans for event in events), default=-1)


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
