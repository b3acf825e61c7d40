"""What the caching allocator reserves for a step that was walked."""

from memplanner.allocator.simulation import AllocatorSimulation, Requests
from memplanner.step.walk import Walk


class Segments:
    """The segments of one step. Worked out when they are asked for, and once for all estimates of this step, which may
    be for different devices.
    """

    def __init__(self, walked: Walk, simulation: AllocatorSimulation) -> None:
        self._walked = walked
        self._simulation = simulation
        self._answers: dict[tuple[bool, int | None, int | None], int] = {}

    def reserved_bytes(
        self, *, expandable_segments: bool = False, max_split_size: int | None = None, limit: int | None = None
    ) -> int:
        """The most bytes of segments; see AllocatorSimulation.reserved_bytes."""
        options = expandable_segments, max_split_size, limit
        answer = self._answers.get(options)
        if answer is None:
            answer = self._simulation.reserved_bytes(
                self._requests(), expandable_segments=expandable_segments, max_split_size=max_split_size, limit=limit
            )
            self._answers[options] = answer
        return answer

    def _requests(self) -> Requests:
        tape = self._walked.tape
        early, late = self._walked.held.block_groups
        return Requests(
            log=tape.log,
            update=next(position for name, position in tape.phases if name == "update"),
            runs=tape.runs,
            reps=tape.reps,
            sizes=tape.sizes,
            early=early,
            late=late,
        )
