"""Models of types that no family is written for: what transformers and peft know of them."""

import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn, get_args

from memplanner.catalogue import ModelProfile
from memplanner.components.architectures.family import MAX_LAYERS, MAX_SIZE, Family, Published
from memplanner.components.architectures.recorded.settings import MOST
from memplanner.components.architectures.tasks import Task, task_of
from memplanner.errors import Problem, UserError, misspelling
from memplanner.harness.builders.factories import factory_of
from memplanner.harness.builders.targets import default_targets
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.errors import show

_PREFERRED: Final[tuple[Task, ...]] = ("causal-lm", "masked-lm", "sequence-classification")
"""What a model is trained for where neither the plan nor config.json says it."""
_NO_FIELDS: Final = ("memplanner", "model_type", "architectures", "auto_map")
"""Keys of config.json that are no settings of the model. Code that a repository brings (auto_map) is never run."""
_LIMITS: Final = (
    (re.compile(r"(.*_)?(layers?|depth)"), MAX_LAYERS),
    (re.compile(r".*experts"), max(MOST.values())),
    (re.compile(r".*(theta|base|freq|_id|index|seed).*"), None),
    (re.compile(r".*"), MAX_SIZE),
)
"""Keys of config.json, and the largest whole number under one: the first that matches counts. None: whatever is there,
which is no size of anything.
"""


def config_of(profile: ModelProfile) -> Any:
    """transformers' config object of a model. UserError where it has no class for the model's type, or refuses what the
    file says.
    """
    import transformers

    model_type = profile.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        message = f"{show(model_type)} is no model type of the installed transformers {transformers.__version__}"
        _refuse(profile, "model_type", message, misspelling(str(model_type), transformers.CONFIG_MAPPING))
    fields = {key: value for key, value in profile.config.items() if key not in _NO_FIELDS}
    for key, number, most in _absurd("", fields):
        _refuse(profile, key, f"{show(number)} is above {most}, and no published model has as much")
    try:
        return transformers.AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # whatever its classes raise at what the file says
        text = " ".join(str(error).split())[:200]
        _refuse(profile, "", f"transformers refuses it: {type(error).__name__}: {text}")


def _absurd(key: str, value: Any) -> Iterator[tuple[str, int, int]]:
    """Whole numbers under the key and inside it that are larger than in any published model, each with its own key and
    its limit. transformers' classes take time and memory in proportion to such as the number of layers.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _absurd(name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _absurd(key, inner)
    elif isinstance(value, int):
        most = next(limit for form, limit in _LIMITS if form.fullmatch(key))
        if most is not None and value > most:
            yield key, value, most


def unwritten(plan: TrainingPlan, profile: ModelProfile) -> tuple[Family, Published]:
    """A family in name alone, with peft's default targets (where it has none: every linear layer), and the task: the
    plan's, that of the class in config.json, or the first that transformers has a class for.
    """
    config = config_of(profile)
    offered = [task for task in get_args(Task) if factory_of(config, task) is not None]
    task = plan.task or _published(profile.config, offered) or next((t for t in _PREFERRED if t in offered), None)
    if task is None or task not in offered:
        hint = f"it has one for {', '.join(offered)}" if offered else "`profile --entry` runs a model of your own"
        wanted = task or f"a task that is modelled, which are {', '.join(get_args(Task))}"
        _refuse(profile, "model_type", f"transformers has no class of {config.model_type} models for {wanted}", hint)
    family = Family(
        name=str(config.model_type),
        read=_nothing,
        model=_nothing,
        modules=_nothing,
        lora_targets=default_targets(config),
        block_targets=(),
    )
    labels = 2 if task == "question-answering" else plan.num_labels or int(getattr(config, "num_labels", 2))
    return family, Published(task=task, num_labels=labels)


def _published(config: dict[str, Any], offered: list[Task]) -> Task | None:
    names = config.get("architectures")
    for name in names if isinstance(names, list) else ():
        try:
            task = task_of(str(name))
        except KeyError:
            continue
        if task in offered:
            return task
    return None


def _nothing(*_: Any) -> NoReturn:
    raise AssertionError("no family is written for this model type")


def _refuse(profile: ModelProfile, key: str, message: str, hint: str = "") -> NoReturn:
    raise UserError(Problem(where=profile.name, key=key, message=message, hint=hint))
