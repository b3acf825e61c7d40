"""transformers' TrainingArguments, or trl's SFTConfig, as JSON or YAML."""

from typing import Final

from memplanner.files.parse import Table
from memplanner.frameworks import peft_adapter, trainer
from memplanner.frameworks.keys import Keys, set_path
from memplanner.frameworks.models import DTYPES, model_dtype, model_name
from memplanner.frameworks.optimizers import take_optimizer
from memplanner.frameworks.trainer import (
    Reentrant,
    precision_of,
    take_attention,
    take_half,
    take_lora,
    take_trainer,
)
from memplanner.settings.errors import show, suggest

NAME: Final = "transformers TrainingArguments"
KNOWN_BY: Final = "TrainingArguments (output_dir)"
OVER: Final = (peft_adapter.NAME,)
DECIDES: Final = {
    **trainer.DECIDES,
    "method": ("use_peft",),
    "method.target_modules": ("lora_target_modules",),
    "method.modules_to_save": ("lora_modules_to_save",),
    "optimizer": ("optim",),
    "step.attention": ("attn_implementation",),
}


TRL: Final = (
    *(
        "dataset_name",
        "dataset_mixture",
        "dataset_mixer",
        "dataset_text_field",
        "dataset_kwargs",
        "dataset_train_split",
    ),
    *("max_length", "max_seq_length", "packing", "packing_strategy", "completion_only_loss", "assistant_only_loss"),
    *("torch_dtype", "dtype", "loss_type"),
    "use_peft",
)
"""Keys by which a config is trl's (SFTConfig, ScriptArguments, ModelConfig), whose defaults are others."""


_ADAPTER: Final = ("lora_alpha", "use_rslora", "use_dora")


def recognizes(config: Table) -> bool:
    """Any of the fields that people set, none of which is required."""
    usual = {"per_device_train_batch_size", "output_dir", "optim", "gradient_checkpointing", "bf16", "fp16"}
    return not config.keys().isdisjoint(usual)


def _dtype(keys: Keys, model: str, *, trl: bool) -> str:
    """The type that weights are loaded in: what the config says, or as the model is published, or trl's fp32."""
    published = model_dtype(model)
    for key in ("torch_dtype", "dtype"):
        word = keys.take(key)
        if word is None:
            continue
        if not isinstance(word, str) or (word != "auto" and word not in DTYPES):
            keys.refuse(key, f"{show(word)} is not a type that weights are loaded in", suggest(str(word), DTYPES))
        dtype = DTYPES.get(word, published)
        keys.use(key, f"weights loaded in {dtype or 'fp32'}")
        return dtype
    if trl:
        keys.assumed.append("weights loaded in fp32, trl's default")
        return "fp32"
    loaded = f"{published}, as the model is published" if published else "fp32"
    keys.assumed.append(f"weights loaded in {loaded}: TrainingArguments does not say")
    return published


def _take_trl(keys: Keys, table: Table) -> None:
    """What trl's SFTTrainer does where its config is silent (trl/trainer/base_config.py and sft_config.py, 2026)."""
    if "seq_len" not in table.get("step", {}):
        set_path(table, "step.seq_len", 1024)
        keys.assumed.append("max_length 1024, trl's default")
    if not any(map(keys.mentions, ("gradient_checkpointing", "activation_checkpointing"))):
        set_path(table, "step.checkpointing", "full")
        keys.assumed.append("gradient checkpointing, which trl switches on")
    loss = keys.take("loss_type")
    if loss not in (None, "nll", "chunked_nll"):
        keys.bar("loss_type", loss, "another loss would be counted")
    elif loss == "nll" or (loss is None and keys.peek("use_liger_kernel")):
        keys.use("loss_type", "step.loss cross-entropy") if loss else None
    else:
        set_path(table, "step.loss", "chunked")
        keys.leave_out(
            "loss_type", "chunked_nll", "trl's default; eight chunks are counted, not one for each 256 tokens"
        )


def _take_adapter(keys: Keys, table: Table) -> None:
    """trl's ModelConfig, of which get_peft_config makes an adapter (trl/trainer/model_config.py and utils.py)."""
    if not keys.flag("use_peft", "method lora"):
        if keys.mentions("use_peft"):
            keys.disregard(_ADAPTER, ("lora_",))
        return
    if (kind := keys.take("lora_task_type")) not in (None, "CAUSAL_LM"):
        keys.bar("lora_task_type", kind, "another head takes the language model's place")
    elif kind is not None:
        keys.use("lora_task_type", "the language model's head")
    if "method" in table:
        keys.refuse("use_peft", "there is a peft adapter's file beside it", "give one of them")
    names = {"rank": "lora_r", "dropout": "lora_dropout", "targets": "lora_target_modules", "dora": "use_dora"}
    take_lora(keys, table, {**names, "saved": "lora_modules_to_save"})
    for setting, value in (("rank", 16), ("dropout", 0.05)):
        if setting not in table["method"]:
            set_path(table, f"method.{setting}", value)
            keys.assumed.append(f"{names[setting]} {value}, trl's default")
    keys.bar_if_set({"lora_target_parameters": "adapters of bare parameters are not counted"})
    keys.disregard(_ADAPTER)


def read(keys: Keys, known: Table, *, alone: bool) -> Table:
    """The plan's raw table, over what is known of model and method from elsewhere: a peft adapter's file, say."""
    table = dict(known)
    named = keys.text("model_name_or_path", "model")
    if named is not None:
        table.setdefault("model", model_name(named))
        keys.use("model_name_or_path", f"model {table['model']}")
    trl = any(map(keys.mentions, TRL))
    half = take_half(keys)
    if trl and not any(map(keys.mentions, ("bf16", "fp16"))):
        half = "bf16"
        keys.assumed.append("bf16, trl's default")
    _take_adapter(keys, table)
    table |= precision_of(half, _dtype(keys, str(table.get("model", "")), trl=trl))
    for key in ("max_length", "max_seq_length", "max_seq_len"):
        set_path(table, "step.seq_len", keys.number(key, "step.seq_len"))
    if trl:
        _take_trl(keys, table)
    if "step" not in table:
        keys.assumed.append("sequences of 256 tokens: TrainingArguments does not say; --seq-len does")
    take_attention(keys, "attn_implementation", table)
    take_optimizer(keys, "optim", table, default="adamw_torch_fused")
    default = "trl's default" if trl else "transformers 5's default; before, it was true"
    take_trainer(keys, table, batch_default=8, reentrant_default=Reentrant(False, default))
    return table
