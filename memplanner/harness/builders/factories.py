"""Which of transformers' classes is trained: the one that config.json names, or the first there is for the task."""

from collections.abc import Iterable
from typing import Any

from memplanner.components.architectures.tasks import Task, class_end


def factory_of(config: Any, task: Task, published: Iterable[str] = ()) -> Any | None:
    """transformers' AutoModelFor… that makes such a model for the task; None where none does.

    config: transformers' own. published: `architectures` of config.json. Models with other parts than a language model,
    such as a vision tower, are causal language models whose classes end in ForConditionalGeneration.
    """
    import transformers

    factories = [getattr(transformers, f"AutoModel{class_end(task)}")]
    if task == "causal-lm":
        factories.append(transformers.AutoModelForImageTextToText)
        if config.get_text_config() is not config:
            factories.reverse()
    offered = [factory for factory in factories if type(config) in factory._model_mapping]
    names = {*published}
    named = (factory for factory in offered if factory._model_mapping[type(config)].__name__ in names)
    return next(named, offered[0] if offered else None)
