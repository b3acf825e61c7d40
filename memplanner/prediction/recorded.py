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
_TYPE: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
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
    found = _of_type(str(config.get("model_type")))
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


def own_path(model_type: str) -> Path | None:
    """Where the user's recording of a type is kept; None in continuous integration, and for what is no type's name."""
    return kept_path(FOLDER, f"{model_type}.json") if _TYPE.fullmatch(model_type) else None


def shipped_path(model_type: str) -> Path:
    """Where the recording of a type that ships is."""
    return profiles_dir() / FOLDER / f"{model_type}.json"


@cache
def shipped_types() -> frozenset[str]:
    """The types of models whose recordings ship."""
    try:
        return frozenset(name.removesuffix(".json") for name in os.listdir(profiles_dir() / FOLDER))
    except FileNotFoundError:
        return frozenset()


@cache
def shipped(model_type: str) -> Recorded | None:
    """What ships of a type; None where nothing does."""
    if model_type not in shipped_types():
        return None
    path = shipped_path(model_type)
    with reading(str(path)):
        return Recorded(_table(path.read_text(encoding="utf-8")))


def _recorded_for(config: Mapping[str, Any]) -> Recorded | None:
    """The recording with a program for a config.json: the one that ships, or the user's."""
    for recorded in _of_type(str(config.get("model_type"))):
        with reading(recorded.path):
            if recorded.variant(config) is not None:
                return recorded
    return None


def _of_type(model_type: str) -> list[Recorded]:
    found = [shipped(model_type)]
    path = own_path(model_type)
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
