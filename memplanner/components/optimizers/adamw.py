"""torch.optim.AdamW (torch/optim/adam.py): two moments per trained element."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from memplanner.components.optimizers.update import Optimizer, StateTensor, loop_order, one_per_copy
from memplanner.program.shapes import BF16, FP32, SCALAR, Dtype
from memplanner.tape.engine import Param, Tape


class AdamW(Optimizer):
    """torch.optim.AdamW (or Adam): two moments per trained element."""

    label: ClassVar[str] = "AdamW"
    words: ClassVar = {"adamw": {"implementation": "foreach"}, "adamw-fused": {"implementation": "fused"}}
    kind: Literal["adamw"] = "adamw"
    implementation: Literal["foreach", "fused", "for-loop"] = "foreach"
    """"foreach" is PyTorch's own default on CUDA and makes a temporary per parameter at the step."""
    state_dtype: Literal["param", "fp32", "bf16"] = "param"
    """Type of the moments; torch.optim.AdamW follows the parameter."""

    def describe(self) -> str:
        """adamw or adamw-fused, and the type of its moments where it is not the parameters'."""
        word = "adamw-fused" if self.implementation == "fused" else self.kind
        return word if self.state_dtype == "param" else f"{word} ({self.state_dtype} moments)"

    def summary(self) -> str:
        """adamw, its implementation, and the type of its moments where it is not the parameters'."""
        states = "" if self.state_dtype == "param" else f", {self.state_dtype} states"
        return f"{self.kind} {self.implementation}{states}"

    def moments_dtype(self, dtype: Dtype) -> Dtype:
        """Type of the moments of a parameter of this type."""
        return {"param": dtype, "fp32": FP32, "bf16": BF16}[self.state_dtype]

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """exp_avg and exp_avg_sq; the fused kernel keeps its step count on the device, the others on the host."""
        dtype = self.moments_dtype(param.dtype)
        moments = (StateTensor("exp_avg", param.shape, dtype), StateTensor("exp_avg_sq", param.shape, dtype))
        return (*moments, StateTensor("step", SCALAR, FP32)) if self.implementation == "fused" else moments

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """The fused kernel works in place. foreach takes the root of every second moment at once; the roots of one
        dtype's group are alive until the next group's are made. The for-loop's variable holds the last parameter's
        denominator while the next root is taken.
        """
        if self.implementation == "foreach":
            roots = [one_per_copy(tape, p, self.moments_dtype(p.dtype), "root of exp_avg_sq") for p in params]
            del roots
        elif self.implementation == "for-loop":
            denominator = None
            for p in loop_order(params):
                root = tape.new(p.shape, self.moments_dtype(p.dtype), f"{p.name} root of exp_avg_sq")
                quotient = tape.new(p.shape, self.moments_dtype(p.dtype), f"{p.name} denominator")
                del root
                denominator = quotient
                del quotient
            del denominator
