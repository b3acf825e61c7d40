"""The harness builds every pair that prediction answers for, or says why it cannot; both refuse the same pairs."""

import itertools
import json
from collections.abc import Callable
from typing import Any, Final

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.components.architectures.registry import FAMILIES
from memplanner.components.methods.gradnormlorp_authors_update import WeightNormAdamW
from memplanner.components.optimizers.adamw import AdamW
from memplanner.errors import UnsupportedError
from memplanner.harness.builders.models import build
from memplanner.harness.builders.optimizers import optimizers_for
from memplanner.harness.errors import NotBuildableError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.settings.base import Settings
from memplanner.settings.describe import kind_of
from memplanner.step.assemble import rule_of
from tests.contract.variants import LOSSES, METHOD_VARIANTS, METHODS, OPTIMIZER_VARIANTS, OPTIMIZERS, label
from tests.harness.test_against_trace import FAMILIES as BY_FAMILY
from tests.harness.test_against_trace import METHODS as BY_METHOD
from tests.harness.test_against_trace import REGIMES, UPDATES
from tests.models import MODELS

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 128,
}


def torch_adamw(state_dtype: str) -> Callable[[TrainingPlan], bool]:
    """A rule that is torch's own AdamW, with moments of this type."""

    def has(plan: TrainingPlan) -> bool:
        rule = rule_of(plan)
        return isinstance(rule, AdamW) and rule.implementation != "bitsandbytes" and rule.state_dtype == state_dtype

    return has


NOT_BUILDABLE: Final[tuple[tuple[Callable[[TrainingPlan], bool], str], ...]] = (
    (lambda plan: isinstance(rule_of(plan), WeightNormAdamW), "the authors' code cannot be installed as a package"),
    (torch_adamw("fp32"), "torch.optim.AdamW has no option for fp32 moments"),
    (torch_adamw("bf16"), "torch.optim.AdamW has no option for bf16 moments"),
    (lambda plan: getattr(rule_of(plan), "format", "") == "torchao", "no builder for torchao's optimizers"),
)
"""Plans that prediction answers for and this harness has no library for, with its reason."""
WITHOUT_TRACE: Final = {
    ("loss", "chunked"): "no model of transformers has such a loss",
    ("loss", "fused"): "no model of transformers has such a loss",
    ("loss", "cut-cross-entropy"): "no model of transformers has such a loss",
}
"""Kinds that no trace holds, with the reason: a trace is of what the harness builds."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("contract") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


def reason(plan: TrainingPlan) -> str:
    """Why the harness cannot build the plan; "" where it can."""
    return next((why for concerns, why in NOT_BUILDABLE if concerns(plan)), "")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHOD_VARIANTS, ids=label)
def test_every_pair_is_built_or_refused(method: dict[str, Any], precision: str, config: str) -> None:
    models: list[Any] = []

    def built(plan: TrainingPlan) -> bool:
        """The model is the same whatever the optimizer is, once there is one that does not refuse the method."""
        if not models:
            models.append(build(plan, device="cpu")[0])
        return bool(optimizers_for(plan, models[0]))

    for optimizer, per_layer in itertools.product(OPTIMIZER_VARIANTS, (False, True)):
        step = {"per_layer_updates": per_layer, "seq_len": 16}
        choice = {"method": method, "optimizer": optimizer, "precision": precision, "step": step}
        plan = TrainingPlan.model_validate({"model": config, **choice})
        predicted, harness = refusal(predict, plan), refusal(built, plan)
        if predicted:
            assert harness == predicted, label(optimizer)
        elif why := reason(plan):
            assert harness.startswith("not buildable: "), label(optimizer)
            assert why in harness, label(optimizer)
        else:
            assert harness == "", label(optimizer)


def refusal(answer: Callable[[TrainingPlan], Any], plan: TrainingPlan) -> str:
    """What is said instead of an answer; "" where there is one."""
    try:
        answer(plan)
    except UnsupportedError as error:
        return f"unsupported: {error}"
    except NotBuildableError as error:
        return f"not buildable: {error}"
    return ""


@pytest.mark.parametrize("loss", [kind_of(cls) for cls in LOSSES])
def test_every_loss_is_built_or_refused(loss: str, config: str) -> None:
    plan = TrainingPlan.model_validate({"model": config, "step": {"loss": loss, "seq_len": 16}})
    if ("loss", loss) in WITHOUT_TRACE:
        with pytest.raises(NotBuildableError, match=WITHOUT_TRACE["loss", loss]):
            build(plan)
    else:
        build(plan)


TRACED = [TrainingPlan.model_validate(case.values[1]) for case in (*BY_FAMILY, *REGIMES, *BY_METHOD, *UPDATES)]


KINDS: Final[dict[str, tuple[tuple[type[Settings], ...], set[str]]]] = {
    "method": (METHODS, {plan.method.kind for plan in TRACED}),
    "optimizer": (OPTIMIZERS, {plan.optimizer.kind for plan in TRACED}),
    "loss": (LOSSES, {plan.step.loss.kind for plan in TRACED}),
}
"""Of each choice: what there is, and what is traced."""


@pytest.mark.parametrize("choice", KINDS)
def test_every_kind_is_held_to_a_trace_or_says_why_not(choice: str) -> None:
    classes, traced = KINDS[choice]
    excused = {kind for of, kind in WITHOUT_TRACE if of == choice}
    assert {kind_of(cls) for cls in classes} - traced == excused


def test_every_family_is_held_to_a_trace() -> None:
    assert {MODELS[case.values[0]]["model_type"] for case in BY_FAMILY} == set(FAMILIES)
