"""Training methods side by side: the flags that change a plan to each method, everything else equal."""

from collections.abc import Iterator, Sequence

from memplanner.components.methods.low_rank import LowRank
from memplanner.plan.flags import Value, has_use
from memplanner.plan.qlora import QLORA
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.describe import choices

METHODS = choices(TrainingPlan, "method")


def common_rank(plan: TrainingPlan) -> int:
    """The plan's own rank; where its method has none, the default rank of low-rank methods."""
    return LowRank.model_fields["rank"].default if plan.method.chosen_rank is None else plan.method.chosen_rank


def at_equal_ranks(
    plan: TrainingPlan, methods: Sequence[str] = METHODS, ranks: Sequence[int] = ()
) -> Iterator[dict[str, Value]]:
    """The flags of each method at each rank; a method without ranks comes once. ranks: by default the plan's own.

    Where the plan quantises its base, qlora's has that format, too.
    """
    quantized: dict[str, Value] = {} if plan.quantization == "none" else {"--quantization": plan.quantization}
    for method in methods:
        flags: dict[str, Value] = {"--method": method, **(quantized if method == QLORA else {})}
        if not has_use("--rank", method):
            yield flags
            continue
        for rank in ranks or (common_rank(plan),):
            yield {**flags, "--rank": str(rank)}
