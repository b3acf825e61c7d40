"""Adafactor as transformers ships it (arXiv 1804.04235; transformers/optimization.py)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from memplanner.components.optimizers.update import Optimizer, StateTensor, loop_order
from memplanner.program.shapes import FP32, SCALAR, Shape
from memplanner.tape.engine import Param, Tape


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
        stack = dict(zip(shape.labels[:-2], shape.dims[:-2], strict=True))
        rows, columns = Shape(**stack, rows=shape.dims[-2]), Shape(**stack, columns=shape.dims[-1])
        return (*first, StateTensor("exp_avg_sq_row", rows, FP32), StateTensor("exp_avg_sq_col", columns, FP32))

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """One loop, whose variables hold the last parameter's tensors until they are assigned again: gradient and
        parameter in fp32 where they are not, the squared gradient, the update, and its negative when it is added.
        """
        grad = weight = update = None
        for p in loop_order(params):
            half = p.dtype is not FP32
            grad = None
            grad = tape.new(p.shape, FP32, f"{p.name} gradient in fp32") if half else None
            weight = tape.new(p.shape, FP32, f"{p.name} in fp32") if half else None
            square = tape.new(p.shape, FP32, f"{p.name} squared gradient")
            update = tape.new(p.shape, FP32, f"{p.name} squared gradient plus epsilon")
            del square
            update = tape.new(p.shape, FP32, f"{p.name} update")
            negative = tape.new(p.shape, FP32, f"{p.name} negated update")
            del negative
        del grad, weight, update
