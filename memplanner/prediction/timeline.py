"""The timeline of a step: what is alive at a moment, by category and by tensor, and the step as a curve."""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from memplanner.frozen import Frozen
from memplanner.program.liveness import Liveness, Moment
from memplanner.program.program import StepProgram
from memplanner.timeline import CATEGORIES, Category, Phase, TensorRow

_LOADED: tuple[Category, ...] = ("parameters", "adapters")
"""The categories that exist once the model is loaded."""


class Timeline(Frozen):
    """The timeline of one step. liveness: with or without a refresh of the projections, whichever has the higher peak.

    A moment of None stands for the time when the weights are loaded and the step has not begun.
    """

    program: StepProgram
    liveness: Liveness

    @cached_property
    def loaded_bytes(self) -> int:
        """Bytes allocated once the weights are loaded."""
        sums = self.program.persistent.by_category
        return sum(sums[category] for category in _LOADED)

    def points(self, columns: int | None = None) -> tuple[tuple[Phase, int, Moment | None], ...]:
        """The step in order: (phase, live bytes, moment).

        columns: divide the step into at most so many parts, each inside one phase, and give the highest moment of each.
        Without columns: the first, the highest and the last moment of every span of the decoded program.
        """
        base = self.program.persistent.total
        if columns is not None:
            return tuple(self._highest(columns, base))
        turning = ((phase, base + size, moment) for phase, moment, size in self.liveness.turning_points())
        return (("load", self.loaded_bytes, None), *turning)

    def _highest(self, columns: int, base: int) -> Iterator[tuple[Phase, int, Moment | None]]:
        """The highest moment in each of the columns, of which every phase has enough to be readable."""
        moments: dict[Phase, list[tuple[int, Moment]]] = {}
        for phase, moment, size in self.liveness.moments():
            moments.setdefault(phase, []).append((base + size, moment))
        least = max(min(9, columns // (1 + len(moments))), 1)  # enough columns for a phase's name
        spare = max(columns - least * (1 + len(moments)), 0)
        total = sum(map(len, moments.values()))
        for _ in range(least):
            yield "load", self.loaded_bytes, None
        for phase, inside in moments.items():
            count = least + spare * len(inside) // total
            for n in range(count):
                start = n * len(inside) // count
                part = inside[start : max((n + 1) * len(inside) // count, start + 1)]
                size, moment = max(part, key=lambda point: point[0])
                yield phase, size, moment

    def by_category(self, moment: Moment | None) -> dict[Category, int]:
        """Bytes alive at a moment."""
        persistent_bytes = self.program.persistent.by_category
        sums = Counter(
            persistent_bytes if moment is not None else {category: persistent_bytes[category] for category in _LOADED}
        )
        for index, count in self._alive(moment).items():
            sums[self.program.tensors[index].category] += self.program.sizes[index] * count
        return {category: sums[category] for category in CATEGORIES}

    def rows_at(self, moment: Moment | None) -> tuple[TensorRow, ...]:
        """Tensors alive at a moment, largest first."""
        rows = [*self._persistent_rows(loaded_only=moment is None), *self._step_rows(moment)]
        return tuple(sorted(rows, key=lambda row: (-row.bytes, row.name)))

    def _alive(self, moment: Moment | None) -> dict[int, int]:
        return {} if moment is None else self.liveness.alive(moment)

    def _persistent_rows(self, *, loaded_only: bool) -> list[TensorRow]:
        return [
            TensorRow(
                name=t.name,
                category=t.category,
                shape=t.shape.dims,
                dtype=t.dtype.name,
                count=t.copies,
                bytes=t.block_bytes,
                born="load",
                dies="",
                why=_why(t.shape.why(t.dtype), t.shape.numel * t.dtype.size, t.block_bytes // t.copies, t.copies),
            )
            for t in self.program.persistent
            if not loaded_only or t.category in _LOADED
        ]

    def _step_rows(self, moment: Moment | None) -> list[TensorRow]:
        rows = []
        for index, count in self._alive(moment).items():
            size = self.program.sizes[index]
            if size == 0:
                continue
            tensor = self.program.described(index)
            born, dies = self.program.phases_of(index)
            rows.append(
                TensorRow(
                    name=f"{tensor.scope} {tensor.name}".strip(),
                    category=tensor.category,
                    shape=tensor.shape.dims,
                    dtype=tensor.dtype.name,
                    count=count,
                    bytes=size * count,
                    born=born,
                    dies=dies,
                    why=_why(tensor.shape.why(tensor.dtype), tensor.shape.numel * tensor.dtype.size, size, count),
                )
            )
        return rows


def _why(formula: str, exact: int, allocated: int, count: int) -> str:
    total = f"{formula} = {exact:,} B"
    if allocated != exact:
        total += f", in blocks of 512 B: {allocated:,} B"
    return f"{count} × ({total}) = {allocated * count:,} B" if count > 1 else total
