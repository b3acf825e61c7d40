"""Models as configs name them, found among those that come with memplanner."""

import functools
from typing import Final

from memplanner.catalogue import ModelProfile, all_models, model_by_words
from memplanner.catalogue import key as spelling

DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""torch's types as a plan's."""


def model_name(name: str) -> str:
    """A hub name as memplanner knows the model, else as it is; find_model tells what that stands for."""
    if name.startswith((".", "/", "~")) or name.endswith(".json"):
        return name
    model = _bundled().get(spelling(name)) or _bundled().get(spelling(name.rpartition("/")[2]))
    return model.id if model else name


def bundled(name: str) -> ModelProfile | None:
    """A bundled model by its name or by the words of it. No file that a config names is looked for, let alone read."""
    return _bundled().get(spelling(name)) or model_by_words(name)


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
