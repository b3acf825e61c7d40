"""torch.optim.AdamW (torch/optim/adam.py), and bitsandbytes' with fp32 moments: two moments per trained element."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import model_validator

from memplanner.components.optimizers.update import Optimizer, StateTensor, loop_order, one_per_copy, paged
from memplanner.program.shapes import BF16, FP32, SCALAR, Dtype
from memplanner.tape.engine import Param, Tape


class AdamW(Optimizer):
    """torch.optim.AdamW (or Adam): two moments per trained element."""

    label: ClassVar[str] = "AdamW"
    words: ClassVar = {
        "adamw": {"implementation": "foreach", "is_paged": False},
        "adamw-fused": {"implementation": "fused", "is_paged": False},
        "paged-adamw": {"implementation": "bitsandbytes", "is_paged": True},
    }
    kind: Literal["adamw"] = "adamw"
    implementation: Literal["foreach", "fused", "for-loop", "bitsandbytes"] = "foreach"
    """"foreach" is PyTorch's own default on CUDA and makes a temporary per parameter at the step; "bitsandbytes" is
    bitsandbytes.optim.AdamW, whose moments are fp32."""
    state_dtype: Literal["param", "fp32", "bf16"] = "param"
    """Type of the moments; torch.optim.AdamW follows the parameter."""
    is_paged: bool = False
    """The moments of parameters of 100,000 elements or more are in managed memory, which the host backs: no allocator
    of torch's counts it (bitsandbytes' paged optimizers)."""

    @model_validator(mode="after")
    def _bitsandbytes_alone_pages(self) -> "AdamW":
        if self.is_paged and self.implementation != "bitsandbytes":
            raise ValueError(
                f"is_paged is bitsandbytes': implementation 'bitsandbytes', not {self.implementation!r}, can be paged"
            )
        if self.implementation == "bitsandbytes" and self.state_dtype == "bf16":
            raise ValueError("state_dtype 'bf16': bitsandbytes' AdamW keeps its moments in fp32")
        return self

    def describe(self) -> str:
        """adamw or adamw-fused, and the type of its moments where it is not the parameters'."""
        word = {"fused": "adamw-fused", "bitsandbytes": "adamw (bitsandbytes)"}.get(self.implementation, self.kind)
        if self.is_paged:
            return "paged-adamw"
        return word if self.state_dtype == "param" else f"{word} ({self.state_dtype} moments)"

    def summary(self) -> str:
        """adamw, its implementation, and the type of its moments where it is not the parameters'."""
        states = "" if self.state_dtype == "param" else f", {self.state_dtype} states"
        return f"{self.kind} {'paged ' if self.is_paged else ''}{self.implementation}{states}"

    def moments_dtype(self, dtype: Dtype) -> Dtype:
        """Type of the moments of a parameter of this type."""
        if self.implementation == "bitsandbytes":
            return FP32
        return {"param": dtype, "fp32": FP32, "bf16": BF16}[self.state_dtype]

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """exp_avg and exp_avg_sq; the fused kernel keeps its step count on the device, the others on the host."""
        dtype = self.moments_dtype(param.dtype)
        names = ("state1", "state2") if self.implementation == "bitsandbytes" else ("exp_avg", "exp_avg_sq")
        moments = tuple(StateTensor(name, param.shape, dtype) for name in names)
        if self.is_paged:
            return paged(param, *moments)
        return (*moments, StateTensor("step", SCALAR, FP32)) if self.implementation == "fused" else moments

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """The fused kernel and bitsandbytes' work in place. foreach takes the root of every second moment at once; the
        roots of one dtype's group are alive until the next group's are made. The for-loop's variable holds the last
        parameter's denominator while the next root is taken.
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
