"""Adafactor as transformers ships it (arXiv 1804.04235; transformers/optimization.py)."""

from typing import Literal

from memplanner.components.optimizers.rules import StateTensor, in_order
from memplanner.program.shapes import FP32, SCALAR, Dtype, Shape
from memplanner.settings.base import Settings
from memplanner.tape.engine import Param, Tape


class Adafactor(Settings):
    """A second moment by rows and columns."""

    kind: Literal["adafactor"] = "adafactor"
    beta1: bool = False
    """Keep a first moment as well."""

    @property
    def in_place(self) -> bool:
        """Whether the update makes no temporaries."""
        return False

    def state(self, shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
        """Row and column sums in fp32 for a matrix, the whole second moment for a vector; and the parameter's RMS."""
        first: tuple[StateTensor, ...] = (StateTensor("RMS", SCALAR, FP32),)
        if self.beta1:
            first = (*first, StateTensor("exp_avg", shape, FP32))
        if len(shape.dims) < 2:
            return (*first, StateTensor("exp_avg_sq", shape, FP32))
        rows, columns = Shape(rows=shape.dims[0]), Shape(columns=shape.dims[1])
        return (*first, StateTensor("exp_avg_sq_row", rows, FP32), StateTensor("exp_avg_sq_col", columns, FP32))

    def shared(self) -> tuple[StateTensor, ...]:
        """Nothing."""
        return ()

    def step_one(self, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """Gradient and parameter in fp32 where they are not, the update, and its negative when it is added."""
        half = dtype is not FP32
        grad = tape.new(shape, FP32, "gradient in fp32") if half else None
        weight = tape.new(shape, FP32, "parameter in fp32") if half else None
        update = tape.new(shape, FP32, "update")
        negative = tape.new(shape, FP32, "negated update")
        del grad, weight, update, negative

    def step_all(self, tape: Tape, params: list[Param]) -> None:
        """One parameter after another, in one loop whose variables hold the last one's tensors until they are assigned
        again.
        """
        grad = weight = update = None
        for p in in_order(params):
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
