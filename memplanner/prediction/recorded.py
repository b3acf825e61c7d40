"""Which types of models have a recorded forward pass, and how it is read: one file a type in profiles/recorded."""

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal

from memplanner.components.architectures.family import ConfigReader, Family
from memplanner.components.architectures.recorded.settings import Recorded, read_recorded
from memplanner.components.architectures.registry import FAMILIES
from memplanner.components.architectures.saved import saved_format
from memplanner.components.architectures.tasks import Task, task_of
from memplanner.components.methods.base import Method
from memplanner.components.methods.targets import ALL_LINEAR, ends_in
from memplanner.errors import UserError
from memplanner.files.sandbox import profiles_dir

KIND: Final = "recorded"
Answer = Literal["written", "recorded", "traced"]
"""What answers for a model: a family written by hand, a recorded program, or a trace of the very step."""


def answer_of(config: Mapping[str, Any], task: Task | None = None, method: Method | None = None) -> Answer:
    """What answers for a model, by its config.json. One that names no type is left to the written families, which
    complain of it. task and method: the plan's. Adapters of bare parameters, such as those of experts, are traced.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type in FAMILIES:
        return "written"
    recorded = recorded_type(model_type)
    if recorded is None or recorded.variant(config) is None or not _is_language_model(config, task):
        return "traced"
    targets = None if method is None else method.peft_targets
    return "traced" if targets and _adapts_parameters(targets, recorded.converted) else "recorded"


def why_traced(config: Mapping[str, Any], task: Task | None, method: Method) -> str:
    """Why neither a family nor a recorded program answers for a plan; without a full stop."""
    recorded = recorded_type(str(config.get("model_type")))
    if recorded is None:
        return "no family is written for this type of model"
    unknown = recorded.unknown(config)
    if unknown:
        return f"no forward pass with {unknown} was recorded for this type of model"
    if not _is_language_model(config, task):
        return "only causal language models of this type were recorded"
    assert method.peft_targets
    return "target_modules mean experts or their router, which peft adapts as bare parameters"


def _adapts_parameters(targets: tuple[str, ...] | str, converted: tuple[str, ...]) -> bool:
    """Whether peft turns some of target_modules into adapters of bare parameters, as it does with names that experts
    had as linear layers (peft/utils/transformers_weight_conversion.py). Of a pattern it makes names, which then hold in
    every block.
    """
    if not converted or isinstance(targets, str):
        return bool(converted)
    return any(target == ALL_LINEAR or any(ends_in(target, name) for name in converted) for target in targets)


def _is_language_model(config: Mapping[str, Any], task: Task | None) -> bool:
    """Whether a causal language model is trained."""
    if task is not None:
        return task == "causal-lm"
    names = config.get("architectures")
    for name in names if isinstance(names, list) else ():
        try:
            if task_of(str(name)) not in (None, "causal-lm"):
                return False
        except KeyError:
            continue  # such as …ForConditionalGeneration, which is trained on text here
    return True


def recorded_types() -> frozenset[str]:
    """The types of models that have a file."""
    return _types()


@cache
def _types() -> frozenset[str]:
    try:
        return frozenset(name.removesuffix(".json") for name in os.listdir(profiles_dir() / KIND))
    except FileNotFoundError:
        return frozenset()


@cache
def recorded_type(model_type: str) -> Recorded | None:
    """What was recorded of a type; None where nothing was."""
    if model_type not in recorded_types():
        return None
    text = (profiles_dir() / KIND / f"{model_type}.json").read_text(encoding="utf-8")
    return Recorded(json.loads(text))


def read_recorded_config(config: Mapping[str, Any], where: str, *, attention: str) -> tuple[Family, Any]:
    """The family and the settings of a model whose type was recorded; UserError names what is missing or wrong.

    where: the file the config came from. attention: the plan's word.
    """
    recorded = recorded_type(str(config["model_type"]))
    assert recorded is not None, "whoever calls asks for the answer first"
    family, settings = read_recorded(recorded, config, where, attention=attention)
    fields = ConfigReader(dict(config), where)
    saved_in, multiplied_in = saved_format(fields)
    if fields.problems:
        raise UserError(*fields.problems)
    return family, settings.replaced(saved_in=saved_in, multiplied_in=multiplied_in)
