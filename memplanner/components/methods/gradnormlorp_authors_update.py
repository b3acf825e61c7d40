"""The updates of the two optimizers that GradNormLoRP's authors published, which work on bare weights."""

from functools import singledispatch

from memplanner.components.methods.galore import GaloreAdamW
from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.update import Optimizer, StateTensor, UpdateRule, no_such_pair
from memplanner.program.shapes import Dtype, Shape
from memplanner.tape.engine import Param

METHOD = "GradNormLoRP"
AVAILABLE = "the authors' optimizers have adamw's moments, in the parameter's type"


@singledispatch
def authors_rule(optimizer: Optimizer, weights: Dtype, *, low_rank: bool) -> UpdateRule:
    """LowRankWeightNormAdamW (low_rank) or WeightNormGaLoreAdamW. weights: their type."""
    raise no_such_pair(METHOD, optimizer, AVAILABLE)


@authors_rule.register
def _authors_adamw(optimizer: AdamW, weights: Dtype, *, low_rank: bool) -> UpdateRule:
    if optimizer.implementation in ("fused", "bitsandbytes") or optimizer.moments_dtype(weights) is not weights:
        raise no_such_pair(METHOD, optimizer, AVAILABLE)
    return WeightNormAdamW(low_rank=low_rank, pins_singular_vectors=True)


class WeightNormAdamW(GaloreAdamW):
    """The authors' optimizers over bare weights: GaLore's loop, with the weight's direction v and its norms g beside
    every parameter, and what is kept for them.
    """

    low_rank: bool

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """LowRankWeightNormAdamW projects the moments of v; WeightNormGaLoreAdamW has them whole."""
        rows = Shape(rows=param.shape.dims[0])
        if self.low_rank:
            copies = [("v, a full copy of the weight", param.shape), ("g", rows), *[("moments of g", rows)] * 2]
        else:
            copies = [("v, its gradient and moments", param.shape)] * 5 + [("g, its gradient and moments", rows)] * 4
        extra = tuple(StateTensor(name, shape, param.dtype) for name, shape in copies)
        if param.projection is not None and not self.low_rank:
            return (*self.projectors(param, param.projection), *extra)
        return (*super().state(param), *extra)
