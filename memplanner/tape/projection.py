"""How a gradient is projected before it is used: the shapes of the result and of the projectors."""

from memplanner.errors import Problem, UnsupportedError
from memplanner.frozen import Frozen
from memplanner.program.shapes import Shape


class Projection(Frozen):
    """How a matrix's gradient is projected: from its shorter side only (GaLore's "std"), or from both.

    rank: the length of a projected side. It is at most the smaller side, beyond which the SVD has no more vectors.
    """

    rank: int
    two_sided: bool = False

    def reduced(self, shape: Shape) -> Shape:
        """The shape of the projected gradient, and so of its moments, for a matrix (m, n)."""
        m, n = _matrix(shape)
        first, second = shape.labels
        if self.two_sided:
            return Shape(**{f"r_{first}": self._left_of(m, shape), f"r_{second}": self._left_of(n, shape)})
        if m >= n:
            return Shape(**{first: m, "r": min(self.rank, n)})
        return Shape(**{"r": min(self.rank, m), second: n})

    def sides(self, shape: Shape) -> tuple[tuple[str, int], ...]:
        """The projected sides by name, with their lengths."""
        m, n = _matrix(shape)
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


def _matrix(shape: Shape) -> tuple[int, int]:
    """The sides of a matrix; UnsupportedError for any other weight: the libraries project matrices alone."""
    if len(shape.dims) != 2:
        sizes = " × ".join(f"{size} {label}" for size, label in zip(shape.dims, shape.labels, strict=True))
        message = f"no library projects the gradient of a weight that is no matrix, as of {sizes}"
        raise UnsupportedError(Problem(where="plan", key="method", message=message))
    m, n = shape.dims
    return m, n
