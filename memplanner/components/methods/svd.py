"""A new subspace: the singular vectors of a gradient, as GaLore's and GradNormLoRP's code has torch compute them."""

import contextlib
from collections.abc import Iterator

from memplanner.program.shapes import FP32, Shape
from memplanner.tape.engine import Param, Tape


@contextlib.contextmanager
def singular_vectors(tape: Tape, param: Param) -> Iterator[None]:
    """While it lasts, U, S and Vh of the parameter's gradient (m, n) are there, and the gradient in fp32.

    They are torch.linalg.svd's (full_matrices=False), without the solver's own workspace, whose size no documentation
    gives. What is made meanwhile exists only in steps that compute the subspace anew.
    """
    m, n = param.shape.dims
    k = min(m, n)
    with tape.only_on_refresh():
        gradient = None if param.dtype is FP32 else tape.new(param.shape, FP32, "gradient in fp32")
        column_major = tape.new(param.shape, FP32, "column-major copy for the solver")
        u = tape.new(Shape(m=m, small=k), FP32, "left singular vectors U")
        s = tape.new(Shape(small=k), FP32, "singular values S")
        vh = tape.new(Shape(small=k, n=n), FP32, "right singular vectors Vh")
        del column_major
        yield
        del gradient, u, s, vh
