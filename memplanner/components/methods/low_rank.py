"""Fields and rules that the low-rank methods share."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.base import Method
from memplanner.notes import RankAboveMatrix
from memplanner.program.shapes import FP32, Dtype

Rank = Annotated[int, Field(ge=1, le=1 << 20)]
AdapterDtype = Literal["fp32", "base"]


def _comma_separated(value: Any) -> Any:
    """target_modules = "all-linear" (as peft takes it) or "q_proj,v_proj" stands for the list of those names."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


ModuleName = Annotated[str, Field(min_length=1, max_length=200)]
ModuleNames = Annotated[tuple[ModuleName, ...], Field(strict=False, max_length=1000), BeforeValidator(_comma_separated)]


def ends_in(path: str, name: str) -> bool:
    """Whether a dotted path ends in the name, as peft compares them."""
    return path == name or path.endswith(f".{name}")


class LowRank(Method):
    """What every method with a rank and target modules has."""

    rank: Rank = 8
    """Inner rank of the adapter or projection."""
    target_modules: ModuleNames = ()
    """Names of the linear modules the method acts on, as peft spells them (q_proj, v_proj, all-linear).
    Empty: the method's own default for the family."""
    rank_pattern: Annotated[dict[str, Rank], Field(max_length=4096)] = {}
    """Other ranks for modules whose name ends in the key (peft's rank_pattern), e.g. {"down_proj": 64}."""

    def targets(self, ctx: Context, spec: LinearSpec) -> bool:
        """Whether this linear module is one the method acts on."""
        if not spec.in_block and self.blocks_only:
            return False
        names = self.target_modules or ctx.default_targets
        return any(n == "all-linear" or ends_in(spec.path, n) for n in names)

    @property
    def blocks_only(self) -> bool:
        """Whether layers outside the repeated blocks are left alone unless they are named."""
        return False

    def is_target(self, path: str) -> bool:
        """Whether a linear layer of a block, by its whole path, is one the method acts on; without names, all are."""
        names = self.target_modules or ("all-linear",)
        return any(n == "all-linear" or ends_in(path, n) for n in names)

    def rank_at(self, path: str) -> int:
        """The rank of the linear layer at this path: the pattern's where one matches, else the method's."""
        return next((rank for key, rank in self.rank_pattern.items() if ends_in(path, key)), self.rank)

    def rank_of(self, ctx: Context, spec: LinearSpec) -> int:
        """The module's rank: the pattern's where one matches, else the method's."""
        rank = self.rank_at(f"{ctx.tape.scope}.{spec.path}")
        small = min(spec.in_features, spec.out_features)
        if rank > small:
            ctx.notes.append(RankAboveMatrix(rank=rank, smaller_side=small, is_capped=self.rank_is_capped))
        return rank

    @property
    def rank_is_capped(self) -> bool:
        """Whether a rank above a matrix's smaller side comes to that side; an adapter is as large as it is told."""
        return False

    @property
    def chosen_rank(self) -> int:
        """The rank."""
        return self.rank

    @property
    def named_targets(self) -> tuple[str, ...]:
        """target_modules."""
        return self.target_modules

    @property
    def ranks_by_name(self) -> Mapping[str, int]:
        """rank_pattern."""
        return self.rank_pattern


def adapter_dtype(ctx: Context, choice: AdapterDtype) -> Dtype:
    """FP32, or the base weights' type where that is a floating one."""
    return FP32 if choice == "fp32" or ctx.quantization is not None else ctx.weight_dtype
