"""torch.optim.AdamW (torch/optim/adam.py): two moments per trained element."""

from typing import ClassVar, Literal

from memplanner.components.optimizers.rules import StateTensor, bulk, in_order
from memplanner.program.shapes import BF16, FP32, SCALAR, Dtype, Shape
from memplanner.settings.base import Settings
from memplanner.tape.engine import Param, Tape


class AdamW(Settings):
    """torch.optim.AdamW (or Adam): two moments per trained element."""

    words: ClassVar = {"adamw": {"implementation": "foreach"}, "adamw-fused": {"implementation": "fused"}}
    kind: Literal["adamw"] = "adamw"
    implementation: Literal["foreach", "fused", "for-loop"] = "foreach"
    """"foreach" is PyTorch's own default on CUDA and makes a temporary per parameter at the step."""
    state_dtype: Literal["param", "fp32", "bf16"] = "param"
    """Type of the moments; torch.optim.AdamW follows the parameter."""

    def moments_dtype(self, dtype: Dtype) -> Dtype:
        """Type of the moments of a parameter of this type."""
        return {"param": dtype, "fp32": FP32, "bf16": BF16}[self.state_dtype]

    @property
    def in_place(self) -> bool:
        """Whether the update makes no temporaries."""
        return self.implementation == "fused"

    def state(self, shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
        """exp_avg and exp_avg_sq; the fused kernel keeps its step count on the device, the others on the host."""
        own = self.moments_dtype(dtype)
        state = (StateTensor("exp_avg", shape, own), StateTensor("exp_avg_sq", shape, own))
        return (*state, StateTensor("step", SCALAR, FP32)) if self.implementation == "fused" else state

    def shared(self) -> tuple[StateTensor, ...]:
        """Nothing."""
        return ()

    def step_one(self, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """for-loop: the root of the second moment, and its quotient by the bias correction. foreach on one tensor: the
        root alone.
        """
        if self.implementation == "fused":
            return
        root = tape.new(shape, self.moments_dtype(dtype), "root of exp_avg_sq")
        if self.implementation == "for-loop":
            denominator = tape.new(shape, self.moments_dtype(dtype), "denominator")
            del denominator
        del root

    def step_all(self, tape: Tape, params: list[Param]) -> None:
        """foreach takes the root of every second moment at once; the roots of one dtype's group are alive until the
        next group's are made.
        """
        if self.implementation == "foreach":
            roots = [bulk(tape, p, self.moments_dtype(p.dtype), "root of exp_avg_sq") for p in params]
            del roots
        elif self.implementation == "for-loop":
            # The loop's variable holds the last denominator while the next root is taken.
            denominator = None
            for p in in_order(params):
                root = tape.new(p.shape, self.moments_dtype(p.dtype), f"{p.name} root of exp_avg_sq")
                quotient = tape.new(p.shape, self.moments_dtype(p.dtype), f"{p.name} denominator")
                del root
                denominator = quotient
                del quotient
            del denominator
