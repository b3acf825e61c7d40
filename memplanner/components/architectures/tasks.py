"""What a model is trained for, which decides its head and its loss; named after the ends of transformers' classes."""

from typing import Final, Literal

Task = Literal["causal-lm", "masked-lm", "sequence-classification", "token-classification", "question-answering"]
LABELLED: Final[tuple[Task, ...]] = ("sequence-classification", "token-classification")
"""Tasks whose labels have a number of their own."""

_ENDS: Final[dict[str, Task | None]] = {
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForMaskedLM": "masked-lm",
    "ForPreTraining": "masked-lm",
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "Model": None,
}


def task_of(class_name: str) -> Task | None:
    """The task of one of transformers' classes; None of a bare …Model, which has no head. KeyError of any other."""
    end = max((end for end in _ENDS if class_name.endswith(end)), key=len, default="")
    if ("Head" in class_name) != ("Head" in end):
        raise KeyError(class_name)
    return _ENDS[end]


def class_end(task: Task) -> str:
    """What the names of transformers' classes for the task end in, for messages."""
    return next(end for end, of in _ENDS.items() if of == task)
