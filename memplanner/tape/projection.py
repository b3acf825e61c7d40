"""How a gradient is projected before it is used: the shapes of the result and of the projectors."""

from dataclasses import dataclass

from memplanner.program.shapes import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """How a matrix's gradient is projected: from its shorter side only (GaLore's "std"), or from both.

    rank: the length of a projected side. It is at most the smaller side, beyond which the SVD has no more vectors.
    """

    rank: int
    two_sided: bool = False

    def reduced(self, shape: Shape) -> Shape:
        """The shape of the projected gradient, and so of its moments, for a matrix (m, n)."""
        m, n = shape.dims
        first, second = shape.labels
        if self.two_sided:
            return Shape(**{f"r_{first}": self._left_of(m, shape), f"r_{second}": self._left_of(n, shape)})
        if m >= n:
            return Shape(**{first: m, "r": min(self.rank, n)})
        return Shape(**{"r": min(self.rank, m), second: n})

    def sides(self, shape: Shape) -> tuple[tuple[str, int], ...]:
        """The projected sides by name, with their lengths."""
        m, n = shape.dims
        if self.two_sided:
            return ("left", m), ("right", n)
        return (("right", n),) if m >= n else (("left", m),)

    def covers(self, side: int) -> bool:
        """Whether the rank is as long as the side, so that projecting it would leave nothing out."""
        return self.rank >= side

    def projector(self, side: int, shape: Shape) -> Shape:
        """The shape of the projector of a side of that length."""
        return Shape(side=side, r=min(self.rank, *shape.dims))

    def _left_of(self, side: int, shape: Shape) -> int:
        return side if self.covers(side) else min(self.rank, *shape.dims)
