"""Which types of models have a recorded forward pass, and how it is read: one file a type, of those that ship in
profiles/recorded and of those that `memplanner record` keeps in the user's cache directory.
"""

import os
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from memplanner.components.architectures.family import ConfigReader, Family
from memplanner.components.architectures.recorded.reading import reading
from memplanner.components.architectures.recorded.settings import SCHEMA, Recorded, read_recorded
from memplanner.components.architectures.registry import FAMILIES
from memplanner.components.architectures.saved import saved_format
from memplanner.components.architectures.tasks import Task, task_of
from memplanner.components.methods.base import Method
from memplanner.components.methods.targets import ALL_LINEAR, ends_in
from memplanner.errors import UserError
from memplanner.files.cache import kept_path
from memplanner.files.parse import read_text
from memplanner.files.sandbox import profiles_dir
from memplanner.files.summed_json import loads

FOLDER: Final = "recorded"
Answer = Literal["written", "recorded", "traced"]
"""What answers for a model: a family written by hand, a recorded program, or a trace of the very step."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100})?")
_MOST_BYTES: Final = 8 << 20


def answer_of(config: Mapping[str, Any], task: Task | None = None, method: Method | None = None) -> Answer:
    """What answers for a model, by its config.json. One that names no type is left to the written families, which
    complain of it. task and method: the plan's. Adapters of bare parameters, such as those of experts, are traced.

    UserError where the user's file for the type cannot be read.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type in FAMILIES:
        return "written"
    recorded = _recorded_for(config)
    if recorded is None or not _is_language_model(config, task):
        return "traced"
    targets = None if method is None else method.peft_targets
    return "traced" if targets and _adapts_parameters(targets, recorded.converted) else "recorded"


def why_traced(config: Mapping[str, Any], task: Task | None, method: Method) -> str:
    """Why neither a family nor a recorded program answers for a plan; without a full stop."""
    found = _of_name(recording_name(config))
    if not found:
        return "no family is written for this type of model"
    if _recorded_for(config) is None:
        return f"no forward pass with {found[0].unknown(config)} was recorded for this type of model"
    if not _is_language_model(config, task):
        return "only causal language models of this type were recorded"
    assert method.peft_targets
    return "target_modules mean experts or their router, which peft adapts as bare parameters"


def read_recorded_config(config: Mapping[str, Any], where: str, *, attention: str) -> tuple[Family, Any]:
    """The family and the settings of a model whose type was recorded; UserError names what is missing or wrong.

    where: the file the config came from. attention: the plan's word.
    """
    recorded = _recorded_for(config)
    assert recorded is not None, "whoever calls asks for the answer first"
    with reading(recorded.path):
        family, settings = read_recorded(recorded, config, where, attention=attention)
    fields = ConfigReader(dict(config), where)
    saved_in, multiplied_in = saved_format(fields)
    if fields.problems:
        raise UserError(*fields.problems)
    return family, settings.replaced(saved_in=saved_in, multiplied_in=multiplied_in)


def recording_name(config: Mapping[str, Any]) -> str:
    """The name of the recording that a config.json needs: its model type, and after a dot that of its language model
    where it may have several, as LLaVA has LLaMA, Mistral and others.
    """
    model_type = str(config.get("model_type"))
    text = config.get("text_config")
    text_type = text.get("model_type") if isinstance(text, dict) else None
    is_own = not isinstance(text_type, str) or text_type.startswith(model_type)
    return model_type if is_own else f"{model_type}.{text_type}"


def own_path(name: str) -> Path | None:
    """Where the user's recording of this name is kept; None in continuous integration, and for what is no name."""
    return kept_path(FOLDER, f"{name}.json") if _NAME.fullmatch(name) else None


def shipped_path(name: str) -> Path:
    """Where the recording of this name that ships is."""
    return profiles_dir() / FOLDER / f"{name}.json"


@cache
def shipped_types() -> frozenset[str]:
    """The names of the recordings that ship."""
    try:
        return frozenset(name.removesuffix(".json") for name in os.listdir(profiles_dir() / FOLDER))
    except FileNotFoundError:
        return frozenset()


@cache
def shipped(name: str) -> Recorded | None:
    """The recording of this name that ships; None where none does."""
    if name not in shipped_types():
        return None
    path = shipped_path(name)
    with reading(str(path)):
        return Recorded(_table(path.read_text(encoding="utf-8")))


def _recorded_for(config: Mapping[str, Any]) -> Recorded | None:
    """The recording with a program for a config.json: the one that ships, or the user's."""
    for recorded in _of_name(recording_name(config)):
        with reading(recorded.path):
            if recorded.variant(config) is not None:
                return recorded
    return None


def _of_name(name: str) -> list[Recorded]:
    found = [shipped(name)]
    path = own_path(name)
    if path is not None:
        try:
            stat = path.stat()
        except OSError:
            pass
        else:
            found.append(_own(path, (stat.st_mtime_ns, stat.st_size)))
    return [recorded for recorded in found if recorded is not None]


@lru_cache(maxsize=64)
def _own(path: Path, changed: tuple[int, int]) -> Recorded:
    with reading(str(path)):
        return Recorded(_table(read_text(path, most=_MOST_BYTES)), str(path))


def _table(text: str) -> dict[str, Any]:
    table = loads(text)
    if table.get("schema") != SCHEMA:
        raise ValueError(f"it is of schema {table.get('schema')!r}, and this version reads {SCHEMA}")
    return table


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
