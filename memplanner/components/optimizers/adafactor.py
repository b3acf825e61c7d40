"""Adafactor as transformers ships it (arXiv 1804.04235; transformers/optimization.py)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from memplanner.components.optimizers.update import Optimizer, StateTensor, loop_order
from memplanner.program.shapes import FP32, SCALAR, Shape
from memplanner.tape.engine import Param, Tape, Tensor


class Adafactor(Optimizer):
    """A second moment by rows and columns."""

    label: ClassVar[str] = "Adafactor"
    kind: Literal["adafactor"] = "adafactor"
    beta1: bool = False
    """Keep a first moment as well."""

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """The parameter's RMS, and in fp32: of a matrix, or of each matrix in a stack of them (experts, rows, columns),
        the second moment's sums by rows and by columns; of a vector the whole second moment.
        """
        shape = param.shape
        first: tuple[StateTensor, ...] = (StateTensor("RMS", SCALAR, FP32),)
        if self.beta1:
            first = (*first, StateTensor("exp_avg", shape, FP32))
        if len(shape.dims) < 2:
            return (*first, StateTensor("exp_avg_sq", shape, FP32))
        rows, columns = _rows_and_columns(shape)
        return (*first, StateTensor("exp_avg_sq_row", rows, FP32), StateTensor("exp_avg_sq_col", columns, FP32))

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """One loop, whose variables hold the last parameter's tensors until they are assigned again: gradient and
        parameter in fp32 where they are not, and the update, in whose place a first moment is put.
        """
        grad = weight = update = None
        for p in loop_order(params):
            half = p.dtype is not FP32
            grad = None
            grad = tape.new(p.shape, FP32, f"{p.name} gradient in fp32") if half else None
            weight = None
            weight = tape.new(p.shape, FP32, f"{p.name} in fp32") if half else None
            rms = _rms(tape, p)
            del rms  # takes the old one's place
            square = tape.new(p.shape, FP32, f"{p.name} squared gradient")
            update = tape.new(p.shape, FP32, f"{p.name} squared gradient plus epsilon")
            del square
            factors = _factors(tape, p)
            update = tape.new(p.shape, FP32, f"{p.name} update")
            del factors
            clip = [_rms(tape, p), tape.new(SCALAR, FP32, f"{p.name} clipping factor")]
            del clip
            if self.beta1:
                update = None
            negative = tape.new(p.shape, FP32, f"{p.name} negated update")
            del negative
        del grad, weight, update


def _rms(tape: Tape, param: Param) -> Tensor:
    """Adafactor._rms: a norm, divided by the root of the number of elements."""
    norm = tape.new(SCALAR, FP32, f"{param.name} norm")
    rms = tape.new(SCALAR, FP32, f"{param.name} RMS")
    del norm
    return rms


def _factors(tape: Tape, param: Param) -> tuple[Tensor, ...]:
    """The means that the second moment takes in, and then Adafactor._approx_sq_grad's two factors, which are there
    while they are multiplied; none for a vector.
    """
    shape = param.shape
    if len(shape.dims) < 2:
        return ()
    rows, columns = _rows_and_columns(shape)
    for mean in (rows, columns):
        tape.new(mean, FP32, f"{param.name} mean of the squared gradient")
    of_rows = tape.new(Shape(**dict(zip(rows.labels, (*rows.dims[:-1], 1), strict=True))), FP32, "mean over rows")
    by_row = tape.new(rows, FP32, f"{param.name} row factor")
    del of_rows
    return by_row, tape.new(columns, FP32, f"{param.name} column factor")


def _rows_and_columns(shape: Shape) -> tuple[Shape, Shape]:
    """A matrix's shape without its columns and without its rows; of a stack of matrices, that of each."""
    stack = dict(zip(shape.labels[:-2], shape.dims[:-2], strict=True))
    return Shape(**stack, rows=shape.dims[-2]), Shape(**stack, columns=shape.dims[-1])
