"""transformers' TrainingArguments, or trl's SFTConfig, as JSON or YAML."""

from typing import Final

from memplanner.files.parse import Table
from memplanner.frameworks.keys import Keys, put
from memplanner.frameworks.models import model_dtype, model_name
from memplanner.frameworks.optimizers import take_optimizer
from memplanner.frameworks.trainer import precision_of, take_attention, take_half, take_trainer

NAME: Final = "transformers TrainingArguments"


def read(keys: Keys, known: Table) -> Table:
    """The plan's raw table, over what is known of model and method from elsewhere: a peft adapter's file, say."""
    table = dict(known)
    named = keys.text("model_name_or_path", "model")
    if named is not None:
        table.setdefault("model", model_name(named))
        keys.use("model_name_or_path", f"model {table['model']}")
    half = take_half(keys)
    dtype = model_dtype(str(table.get("model", "")))
    table |= precision_of(half, dtype)
    said = f"{dtype}, as the model is published" if dtype else "fp32"
    keys.assumed.append(f"weights loaded in {said}: TrainingArguments does not say")
    for key in ("max_length", "max_seq_length", "max_seq_len"):
        put(table, "step.seq_len", keys.number(key, "step.seq_len"))
    if "step" not in table:
        keys.assumed.append("sequences of 256 tokens: TrainingArguments does not say; --seq-len does")
    take_attention(keys, "attn_implementation", table)
    take_optimizer(keys, "optim", table, default="adamw_torch_fused")
    take_trainer(keys, table, batch_default=8)
    return table
