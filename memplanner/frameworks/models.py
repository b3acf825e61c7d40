"""Models as configs name them, found among those that come with memplanner."""

import functools
import re
from typing import Final

from memplanner.catalogue import ModelProfile, all_models
from memplanner.catalogue import key as spelling

_LONGEST: Final = 256
"""Characters of a model's name that may have tails to take off."""
_TAIL: Final = re.compile(r"(-hf|-instruct|-chat|-base|-it)(-v\d[\w.]*)?$|-v\d[\w.]*$", re.IGNORECASE)


DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""torch's types as a plan's."""


def model_name(name: str) -> str:
    """A hub name as memplanner knows the model, else as it is: tuned versions have their base's shapes."""
    if name.startswith((".", "/", "~")) or name.endswith(".json"):
        return name
    short = name.rpartition("/")[2]
    tried = [name, short]
    if len(short) > _LONGEST:
        return name
    while (shorter := _TAIL.sub("", tried[-1])) != tried[-1]:
        tried.append(shorter)
    for candidate in tried:
        if model := bundled(candidate):
            return model.id
    return name


def bundled(name: str) -> ModelProfile | None:
    """A bundled model by its name. No file that a config names is looked for, let alone read."""
    return _bundled().get(spelling(name))


@functools.cache
def _bundled() -> dict[str, ModelProfile]:
    names = [(name, model) for model in all_models() for name in (model.name, *model.aliases)]
    return {spelling(name): model for name, model in (*names, *((model.id, model) for model in all_models()))}


def model_dtype(model: str) -> str:
    """The type a known model's weights are published in: "bf16", "fp16" or "fp32"; "" where it is not known."""
    profile = bundled(model)
    if profile is None:
        return ""
    config = profile.config
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), "")
