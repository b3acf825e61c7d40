"""peft's adapter_config.json (peft/tuners/lora/config.py)."""

from typing import Final

from memplanner.files.parse import Table
from memplanner.frameworks.ignored_keys import PEFT
from memplanner.frameworks.keys import Keys, set_path
from memplanner.frameworks.models import model_name
from memplanner.frameworks.trainer import DECOMPOSED, take_lora
from memplanner.settings.errors import show

NAME: Final = "peft adapter"
KNOWN_BY: Final = "peft (peft_type)"
OVER: Final = ()
DECIDES: Final = {
    "task": ("task_type",),
    "method": ("peft_type", "use_dora"),
    "method.target_modules": ("target_modules",),
    "method.modules_to_save": ("modules_to_save",),
}


def recognizes(config: Table) -> bool:
    """peft writes the adapter's type into every config."""
    return "peft_type" in config


def read(keys: Keys, known: Table, *, alone: bool) -> Table:
    """The plan's raw table: a model and a method. alone: no TrainingArguments say the rest."""
    table: Table = {}
    kind = keys.take("peft_type")
    if not isinstance(kind, str) or kind.upper() != "LORA":
        keys.refuse("peft_type", f"{show(kind)} is not modelled", "LORA is")
    keys.use("peft_type", "method lora")
    model = keys.text("base_model_name_or_path", "model")
    if model is not None:
        table["model"] = model_name(model)
        keys.use("base_model_name_or_path", f"model {table['model']}")
    _task(keys, table)
    names = {"rank": "r", "dropout": "lora_dropout", "targets": "target_modules", "dora": "use_dora"}
    take_lora(keys, table, {**names, "saved": "modules_to_save"})
    pattern = keys.take("rank_pattern")
    if pattern:
        if not isinstance(pattern, dict):
            keys.refuse("rank_pattern", f"{show(pattern)} is not a table of ranks")
        for name, rank in pattern.items():
            if isinstance(rank, bool) or not isinstance(rank, int) or not 0 < rank <= 1 << 20:
                keys.refuse("rank_pattern", f"{show(name)} = {show(rank)} is not a whole number above zero")
        set_path(table, "method.rank_pattern", pattern)
        keys.use("rank_pattern", "method.rank_pattern")
    elif pattern is not None:
        keys.use("rank_pattern", "method.rank_pattern, empty")
    bias = keys.take("bias")
    if bias is not None and bias != "none":
        keys.bar("bias", bias, "trained biases are not counted")
    elif bias is not None:
        keys.use("bias", "none trained")
    keys.bar_if_set(
        {
            "lora_bias": "biases of the adapters are not counted",
            "layers_to_transform": "all blocks are taken to have adapters",
            "layers_pattern": "all blocks are taken to have adapters",
            "layer_replication": "repeated blocks are not counted",
            "exclude_modules": "no module is taken out",
            "target_parameters": "adapters of bare parameters are not counted",
            "trainable_token_indices": "trained rows of the embeddings are not counted",
            "use_qalora": "adapters of another shape are not modelled",
            "ensure_weight_tying": "tied adapters and copies are counted twice",
        }
    )
    how = keys.take("init_lora_weights")
    if how in (None, True, False, "gaussian", "orthogonal"):
        keys.use("init_lora_weights", "no other amounts") if how is not None else None
    else:
        keys.leave_out("init_lora_weights", how, DECOMPOSED)
    keys.disregard(PEFT)
    if alone:
        keys.assumed.append("memplanner's defaults for all but model and method: a peft adapter does not say")
    return table


_TASKS: Final = {
    "CAUSAL_LM": "causal-lm",
    "SEQ_CLS": "sequence-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
}
"""peft's TaskType, of those that are modelled, as a plan's task."""


def _task(keys: Keys, table: Table) -> None:
    """The task, and without a language model's head modules_to_save without the names that peft adds for it
    (peft/peft_model.py, PeftModelForSequenceClassification and its siblings): one of them finds no module.
    """
    kind = keys.take("task_type")
    if kind is None:
        return
    if not isinstance(kind, str) or kind not in _TASKS:
        keys.bar("task_type", kind, f"modelled are {', '.join(_TASKS)}")
        return
    keys.use("task_type", f"task {_TASKS[kind]}")
    if kind == "CAUSAL_LM":  # the default of the models that it is for
        return
    table["task"] = _TASKS[kind]
    names = keys.peek("modules_to_save")
    if isinstance(names, list):
        keys.replace("modules_to_save", [name for name in names if name not in ("classifier", "score", "qa_outputs")])
