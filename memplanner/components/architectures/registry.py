"""config.json, as its publisher wrote it, to the one family that models it; every problem in one line."""

from importlib import import_module
from typing import Any, Final

from memplanner.components.architectures.family import ConfigReader, Family, show_value
from memplanner.components.architectures.saved import saved_format
from memplanner.components.architectures.tasks import LABELLED, Task, class_end, task_of
from memplanner.errors import Problem, UserError, misspelling

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


def read_config(
    config: dict[str, Any], where: str, *, task: Task | None = None, num_labels: int | None = None
) -> tuple[Family, Any]:
    """The family and its settings; UserError names every field that is missing or wrong.

    where: the file the config came from, for messages. task, num_labels: the plan's, None where it leaves them to the
    config.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        shown = show_value(model_type)
        message = "missing" if model_type is None else f"{shown} is not an architecture that is modelled"
        hint = misspelling(model_type, FAMILIES) if isinstance(model_type, str) else ""
        known = f"modelled: {', '.join(sorted(FAMILIES))}"
        raise UserError(Problem(where=where, key="model_type", message=message, hint=f"{hint} {known}".strip()))
    family = family_of(model_type)
    fields = ConfigReader(config, where)
    task, published_as = _task(fields, family, model_type, task)
    labels = _num_labels(fields, task, num_labels)
    is_regression = _is_regression(fields, task, labels)
    saved_in, multiplied_in = saved_format(fields)
    settings = family.read(fields, model_type)
    if task == "masked-lm" in family.tasks and not fields.flag("tie_word_embeddings", True):
        fields.problem("tie_word_embeddings", "a masked language model whose decoder is not tied is not modelled")
    if fields.problems:
        raise UserError(*fields.problems)
    return family, settings.replaced(
        task=task,
        num_labels=labels,
        is_regression=is_regression,
        published_as=published_as,
        saved_in=saved_in,
        multiplied_in=multiplied_in,
    )


def _task(fields: ConfigReader, family: Family, model_type: str, chosen: Task | None) -> tuple[Task, str]:
    """What the model is trained for; and the class it was published as, where its head gives way unasked.

    `architectures` names the class that the weights were saved from, and with it the head that they have.
    """
    names = fields.config.get("architectures")
    default = family.tasks[0]
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        fields.problem("architectures", f"{show_value(names)} is not a list of names")
        return chosen or default, ""
    if chosen is not None:
        if chosen not in family.tasks:
            message = f"{chosen} is no task of {model_type} models that is modelled"
            fields.problems.append(Problem(where="plan", key="task", message=message, hint=_modelled(family)))
        return chosen, ""
    published = {name: task for name in names or () if (task := _published(name, default)) in family.tasks}
    if names and not published:
        ends = ", ".join(f"…{class_end(task)}" for task in family.tasks)
        hint = f"modelled: {ends}; a task that is chosen puts its head in the place of this one"
        fields.problem("architectures", f"{show_value(names[0])} has a head that is not modelled", hint)
    name, task = next(iter(published.items()), ("", default))
    return (default, name) if task in family.takes_over else (task, "")


def _published(name: str, default: Task) -> Task | None:
    """The task of a class's head, the default of one without any; None of one that is not known."""
    try:
        return task_of(name) or default
    except KeyError:
        return None


def _modelled(family: Family) -> str:
    return f"modelled: {', '.join(family.tasks)}"


def _num_labels(fields: ConfigReader, task: Task, chosen: int | None) -> int:
    """The plan's, or config.json's."""
    if chosen is not None and task not in LABELLED:
        message = f"{task} has no labels to count"
        hint = f"{' and '.join(LABELLED)} have"
        fields.problems.append(Problem(where="plan", key="num_labels", message=message, hint=hint))
    labels = fields.config.get("id2label")
    own = fields.size("num_labels", default=len(labels) if isinstance(labels, dict) and labels else 2)
    return 2 if task == "question-answering" else chosen or own


def _is_regression(fields: ConfigReader, task: Task, labels: int) -> bool:
    """Whether a sequence has one number instead of one of several labels (loss_utils.py,
    ForSequenceClassificationLoss, which takes a single label for that).
    """
    kind = fields.config.get("problem_type")
    if task != "sequence-classification" or kind == "single_label_classification":
        return False
    if labels == 1 and kind in (None, "regression"):
        return True
    if kind is not None:
        hint = "modelled: single_label_classification, and regression with num_labels 1"
        fields.problem("problem_type", f"{show_value(kind)} with {labels} labels is not modelled", hint)
    return False
