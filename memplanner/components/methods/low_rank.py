"""Fields and rules that the low-rank methods share."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.base import Method
from memplanner.components.methods.patterns import MOST_PATTERNS, Work, check_end_pattern, check_pattern, is_name
from memplanner.components.methods.targets import ALL_LINEAR, is_matched, rank_keys, ranks_of
from memplanner.components.quantization.base import Quantization
from memplanner.notes import RankAboveMatrix
from memplanner.program.shapes import FP32, Dtype
from memplanner.settings.errors import show

Rank = Annotated[int, Field(ge=1, le=1 << 20)]
AdapterDtype = Literal["fp32", "base"]


def _targets(value: Any) -> Any:
    """Names as a tuple, a pattern as text; "all-linear" as text, in any case, is the word among names."""
    if isinstance(value, str):
        if value.lower() == ALL_LINEAR:
            return (ALL_LINEAR,)
        if not value:
            raise ValueError("is empty")
        _checked(check_pattern, value)
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f"{show(value)} is not a list of names, nor a pattern")
    if len(value) > 1000:
        raise ValueError(f"has {len(value)} entries, more than 1000")
    for name in value:
        if not isinstance(name, str):
            raise ValueError(f"{show(name)} is not text")
        if not 0 < len(name) <= 200:
            raise ValueError(f"{show(name)} is not a name of 1 to 200 characters")
    return tuple(value)


def _ranks_by_pattern(value: dict[str, int]) -> dict[str, int]:
    patterns = [key for key in value if not is_name(key)]
    if len(patterns) > MOST_PATTERNS:
        raise ValueError(f"has {len(patterns)} patterns, more than {MOST_PATTERNS}")
    for pattern in patterns:
        _checked(check_end_pattern, pattern)
    return value


def _checked(check: Callable[[str], None], pattern: str) -> None:
    try:
        check(pattern)
    except ValueError as error:
        raise ValueError(f"{show(pattern)} {error}") from None


TargetModules = Annotated[
    tuple[str, ...] | str,
    PlainValidator(_targets, json_schema_input_type=tuple[str, ...] | str),
    PlainSerializer(lambda value: value),  # Kinds hands over what is a list by then
]
"""Names, or a pattern."""


def _names(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{show(value)} is not a list of names")
    names = _targets(value)
    for name in names:
        if not is_name(name):
            raise ValueError(f"{show(name)} is not a module's name")
    return tuple(dict.fromkeys(names))


ModulesToSave = Annotated[
    tuple[str, ...],
    PlainValidator(_names, json_schema_input_type=tuple[str, ...]),
    PlainSerializer(lambda value: value),
]
"""Names."""


class LowRank(Method):
    """What every method with a rank and target modules has."""

    rank: Rank = 8
    """Inner rank of the adapter or projection."""
    target_modules: TargetModules = ()
    """The linear modules the method acts on, as peft reads them: a list of names or paths (q_proj, v_proj), all-linear,
    or as one text a regular expression for whole paths. Empty: the method's own default for the family."""
    rank_pattern: Annotated[dict[str, Rank], Field(max_length=4096), AfterValidator(_ranks_by_pattern)] = {}
    """Other ranks for modules whose path ends in what the key matches (peft's rank_pattern), e.g. {"down_proj": 64}."""

    def ranks(self, family: Any, config: Any) -> Mapping[str, int]:
        """The rank of every module that the method acts on, by its path; UserError where a name or a pattern is none of
        the model's.
        """
        named = bool(self.target_modules)
        return ranks_of(
            self.target_modules if named else self.default_targets(family),
            self.rank_pattern,
            self.rank,
            family.modules(config),
            blocks_only=self.blocks_only,
            adapts_all=self.adapts_all,
            copied=self.copied(family, config),
            modules_to_save=self.saved_names,
        )

    @property
    def adapts_all(self) -> bool:
        """Whether embeddings and the output projection can be targets, beside the other linear layers."""
        return False

    @property
    def saved_names(self) -> tuple[str, ...]:
        """modules_to_save, which no name among the targets means."""
        return ()

    def targets(self, ctx: Context, spec: LinearSpec) -> bool:
        """Whether this linear module is one the method acts on."""
        return ctx.rank_of(spec) is not None

    @property
    def blocks_only(self) -> bool:
        """Whether layers outside the repeated blocks are left alone unless they are named."""
        return False

    def is_target(self, path: str) -> bool:
        """Whether a linear layer of a block, by its whole path, is one the method acts on; without names, all are."""
        return is_matched(self.target_modules or (ALL_LINEAR,), path, Work())

    def rank_at(self, path: str) -> int:
        """The rank of the linear layer at this path: that of the first pattern that matches, else the method's."""
        key = rank_keys(tuple(self.rank_pattern)).first(path, Work())
        return self.rank if key is None else self.rank_pattern[key]

    def rank_of(self, ctx: Context, spec: LinearSpec) -> int:
        """The rank of a module that the method acts on."""
        rank = ctx.rank_of(spec)
        assert rank is not None, f"{spec.path} is none of the method's targets"
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
    def ranks_by_name(self) -> Mapping[str, int]:
        """rank_pattern."""
        return self.rank_pattern


def adapter_dtype(ctx: Context, choice: AdapterDtype, quantization: Quantization | None) -> Dtype:
    """FP32, or the base weight's type where that is a floating one. quantization: of the weight."""
    return FP32 if choice == "fp32" or quantization is not None else ctx.weight_dtype
