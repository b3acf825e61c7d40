"""Every kind of every choice in a plan has what the rest of the program asks of it: flag, label, margin, sentences."""

from typing import Any, get_args

import pytest

from memplanner import notes
from memplanner.components.architectures.registry import FAMILIES, family_of
from memplanner.components.losses.base import Loss
from memplanner.components.methods.base import Method
from memplanner.components.optimizers.update import Optimizer
from memplanner.errors import UnsupportedError
from memplanner.plan import training_plan
from memplanner.plan.flags import BY_FLAG
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.prediction.margin import margin_of
from memplanner.report.notes import note_sentence
from memplanner.report.phrases import device_word, plan_words
from memplanner.settings.base import Settings
from memplanner.settings.describe import json_schema, kind_of, words
from memplanner.settings.kinds import Kinds
from memplanner.step.assemble import rule_of
from memplanner.tui.state import options_for, value_in
from tests.contract.variants import (
    DEVICES,
    LOSSES,
    METHOD_VARIANTS,
    METHODS,
    OPTIMIZER_VARIANTS,
    OPTIMIZERS,
    label,
)

CHOICES = {"--method": METHODS, "--optimizer": OPTIMIZERS, "--loss": LOSSES}
KINDS = [pytest.param(flag, cls, id=f"{flag}-{kind_of(cls)}") for flag, kinds in CHOICES.items() for cls in kinds]
WORDS = [(flag, word) for flag in CHOICES for word in BY_FLAG[flag].words]


def chosen(plan: TrainingPlan, flag: str) -> Settings:
    value: Any = plan
    for key in BY_FLAG[flag].path:
        value = getattr(value, key)
    assert isinstance(value, Settings)
    return value


@pytest.mark.parametrize(("flag", "cls"), KINDS)
def test_every_kind_can_be_typed(flag: str, cls: type[Settings]) -> None:
    typed = [word for of, word in WORDS if of == flag and isinstance(chosen(merge({}, {of: word}, where=""), of), cls)]
    assert typed, "no word stands for it"
    assert len(typed) == len(cls.words or [kind_of(cls)])


@pytest.mark.parametrize(
    ("kinds", "base"),
    [(training_plan.METHODS, Method), (training_plan.OPTIMIZERS, Optimizer), (training_plan.LOSSES, Loss)],
)
def test_every_kind_is_listed_under_its_name(kinds: Kinds, base: type[Settings]) -> None:
    assert {kind: kind_of(kinds.member(kind)) for kind in kinds.homes} == {kind: kind for kind in kinds.homes}
    assert all(issubclass(member, base) for member in kinds.members)


@pytest.mark.parametrize(("flag", "word"), WORDS)
def test_every_word_is_offered_and_written_as_it_is_typed(flag: str, word: str) -> None:
    plan = merge({"model": "llama-60m"}, {flag: word}, where="")
    assert word in [choice.value for choice in options_for(flag)]
    assert value_in(plan, flag) == word
    assert word in BY_FLAG[flag].placeholder().split("|")


@pytest.mark.parametrize("cls", [*METHODS, *OPTIMIZERS, *LOSSES], ids=kind_of)
def test_every_kind_has_a_label_and_a_docstring(cls: type[Any]) -> None:
    assert issubclass(cls, Method | Optimizer | Loss)
    assert cls.label
    assert cls.__doc__
    assert cls.__doc__ != cls.__mro__[1].__doc__


@pytest.mark.parametrize("kinds", [METHODS, OPTIMIZERS, LOSSES], ids=["methods", "optimizers", "losses"])
def test_labels_tell_kinds_apart(kinds: tuple[Any, ...]) -> None:
    assert len({cls.label for cls in kinds}) == len(kinds)


@pytest.mark.parametrize("optimizer", OPTIMIZER_VARIANTS, ids=label)
def test_every_optimizer_describes_itself(optimizer: dict[str, Any]) -> None:
    value = TrainingPlan.model_validate({"optimizer": optimizer}).optimizer
    assert value.describe().startswith(tuple(words(TrainingPlan, "optimizer")))


@pytest.mark.parametrize("method", METHOD_VARIANTS, ids=label)
def test_every_method_has_a_margin(method: dict[str, Any]) -> None:
    plan = TrainingPlan.model_validate({"method": method})
    margin = margin_of(plan)
    assert margin.kind == plan.method.label
    assert 0 < margin.share < 1
    assert (margin.runs > 0) == (margin.sources >= 2)


@pytest.mark.parametrize("cls", get_args(notes.Note), ids=lambda cls: cls.__name__)
def test_every_note_has_its_sentence(cls: type[Any]) -> None:
    assert note_sentence.dispatch(cls) is not note_sentence.dispatch(object)


@pytest.mark.parametrize("cls", DEVICES, ids=kind_of)
def test_every_device_can_be_typed_and_shown(cls: type[Settings]) -> None:
    typed = {"gpu": "rtx4090", "size": "24GiB"}[kind_of(cls)]
    plan = merge({}, {"--gpu": typed}, where="")
    assert isinstance(plan.device, cls)
    assert device_word(plan) == typed


def test_the_schema_has_every_kind() -> None:
    definitions = json_schema(TrainingPlan)["$defs"]
    for cls in (*METHODS, *OPTIMIZERS, *LOSSES, *DEVICES):
        assert definitions[cls.__name__]["properties"]["kind"]["const"] == kind_of(cls)


@pytest.mark.parametrize("loss", [kind_of(cls) for cls in LOSSES])
@pytest.mark.parametrize("method", METHOD_VARIANTS, ids=label)
def test_every_method_is_predicted_with_every_loss(method: dict[str, Any], loss: str) -> None:
    plan = TrainingPlan.model_validate({"model": "llama-60m", "method": method, "step": {"loss": loss}})
    assert predict(plan).num_trainable > 0
    assert plan_words(plan)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", OPTIMIZER_VARIANTS, ids=label)
@pytest.mark.parametrize("method", METHOD_VARIANTS, ids=label)
def test_every_pair_is_predicted_or_refused(method: dict[str, Any], optimizer: dict[str, Any], precision: str) -> None:
    """A refusal names the method, the optimizer and what there is instead."""
    table = {"model": "llama-60m", "method": method, "optimizer": optimizer, "precision": precision}
    plan = TrainingPlan.model_validate(table)
    try:
        rule_of(plan)
    except UnsupportedError as error:
        (problem,) = error.problems
        assert plan.method.label in problem.message
        assert plan.optimizer.describe() in problem.message
        assert (problem.key, bool(problem.hint)) == ("optimizer", True)
        with pytest.raises(UnsupportedError) as refused:
            predict(plan)
        assert str(refused.value) == str(error)
    else:
        assert predict(plan).persistent["gradients"] > 0


def test_every_family_has_a_model_and_targets() -> None:
    for model_type in FAMILIES:
        family = family_of(model_type)
        assert family.name, model_type
        assert set(family.lora_targets) <= set(family.block_targets), model_type
