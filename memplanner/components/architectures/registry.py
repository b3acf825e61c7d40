"""config.json, as its publisher wrote it, to the one family that models it; every problem in one line."""

from importlib import import_module
from typing import Any, Final

from memplanner.components.architectures.family import ConfigReader, Family, show_value
from memplanner.errors import Problem, UserError, nearest

_HERE: Final = __package__
FAMILIES: Final[dict[str, str]] = {
    "llama": f"{_HERE}.llama",
    "mistral": f"{_HERE}.llama",
    "qwen2": f"{_HERE}.llama",
    "qwen3": f"{_HERE}.llama",
    "gpt2": f"{_HERE}.gpt2",
    "bert": f"{_HERE}.bert",
    "roberta": f"{_HERE}.bert",
}
"""The module with the FAMILY of each model_type: a cold start imports the one that it needs."""


def family_of(model_type: str) -> Family:
    """The family of one of the model types in FAMILIES."""
    family: Family = import_module(FAMILIES[model_type]).FAMILY
    return family


def read_config(config: dict[str, Any], where: str) -> tuple[Family, Any]:
    """The family and its settings; UserError names every field that is missing or wrong.

    where: the file the config came from, for messages.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        shown = show_value(model_type)
        message = "missing" if model_type is None else f"{shown} is not an architecture that is modelled"
        hint = nearest(model_type, FAMILIES) if isinstance(model_type, str) else ""
        known = f"modelled: {', '.join(sorted(FAMILIES))}"
        raise UserError(Problem(where=where, key="model_type", message=message, hint=f"{hint} {known}".strip()))
    family = family_of(model_type)
    fields = ConfigReader(config, where)
    _check_head(fields, family)
    _check_weights(fields)
    settings = family.read(fields, model_type)
    if fields.problems:
        raise UserError(*fields.problems)
    return family, settings


def _check_head(fields: ConfigReader, family: Family) -> None:
    """`architectures` names the class that the weights were saved from, and with it the model's head."""
    names = fields.config.get("architectures")
    if names is None or names == []:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        fields.problem("architectures", f"{show_value(names)} is not a list of names")
    elif not any(_is_trained_as(name, family) for name in names):
        modelled = ", ".join(f"…{end}" for end in family.trained_as if end != "Model")
        fields.problem(
            "architectures", f"{show_value(names[0])} has a head that is not modelled", f"modelled: {modelled}"
        )


def _is_trained_as(name: str, family: Family) -> bool:
    """Whether one of the ends that the family has is the name's; a bare …Model has no head of any kind."""
    end = max((end for end in family.trained_as if name.endswith(end)), key=len, default="")
    return bool(end) and ("Head" in name) == ("Head" in end)


def _check_weights(fields: ConfigReader) -> None:
    """Weights that are saved quantised are loaded as they are, and trained over by other code for each format."""
    quantization = fields.config.get("quantization_config")
    if not quantization:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    hint = "the config.json of the model before it was quantised, and --quantization, are read"
    fields.problem(
        "quantization_config", f"weights that are saved quantised ({show_value(method)}) are not modelled", hint
    )
