"""transformers' TrainingArguments, or trl's SFTConfig, as JSON or YAML."""

from typing import Final

from memplanner.files.parse import Table
from memplanner.frameworks import peft_adapter, trainer
from memplanner.frameworks.keys import Keys, set_path
from memplanner.frameworks.models import model_dtype, model_name
from memplanner.frameworks.optimizers import take_optimizer
from memplanner.frameworks.trainer import precision_of, take_attention, take_half, take_trainer

NAME: Final = "transformers TrainingArguments"
KNOWN_BY: Final = "TrainingArguments (output_dir)"
OVER: Final = (peft_adapter.NAME,)
DECIDES: Final = {
    **trainer.DECIDES,
    "optimizer": ("optim",),
    "step.attention": ("attn_implementation",),
}


def recognizes(config: Table) -> bool:
    """Any of the fields that people set, none of which is required."""
    usual = {"per_device_train_batch_size", "output_dir", "optim", "gradient_checkpointing", "bf16", "fp16"}
    return not config.keys().isdisjoint(usual)


def read(keys: Keys, known: Table, *, alone: bool) -> Table:
    """The plan's raw table, over what is known of model and method from elsewhere: a peft adapter's file, say."""
    table = dict(known)
    named = keys.text("model_name_or_path", "model")
    if named is not None:
        table.setdefault("model", model_name(named))
        keys.use("model_name_or_path", f"model {table['model']}")
    half = take_half(keys)
    dtype = model_dtype(str(table.get("model", "")))
    table |= precision_of(half, dtype)
    loaded = f"{dtype}, as the model is published" if dtype else "fp32"
    keys.assumed.append(f"weights loaded in {loaded}: TrainingArguments does not say")
    for key in ("max_length", "max_seq_length", "max_seq_len"):
        set_path(table, "step.seq_len", keys.number(key, "step.seq_len"))
    if "step" not in table:
        keys.assumed.append("sequences of 256 tokens: TrainingArguments does not say; --seq-len does")
    take_attention(keys, "attn_implementation", table)
    take_optimizer(keys, "optim", table, default="adamw_torch_fused")
    take_trainer(keys, table, batch_default=8)
    return table
