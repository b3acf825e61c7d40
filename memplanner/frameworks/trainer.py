"""What configs have in common, since all of these frameworks run transformers' Trainer."""

from typing import Any, Final, NamedTuple

from memplanner.files.parse import Table
from memplanner.frameworks.ignored_keys import TRAINER
from memplanner.frameworks.keys import NESTED, Keys, set_path
from memplanner.frameworks.models import bundled
from memplanner.settings.errors import show

ATTENTION: Final = {
    "eager": "eager",
    "sdpa": "sdpa",
    "flash_attention_2": "flash-attention-2",
    "flash_attention_3": "flash-attention-2",
}
"""attn_implementation as a plan's attention."""

LIGER_MODELS: Final = ("llama", "mistral", "qwen2", "qwen3")
LIGER_KERNELS: Final = {"rms_norm": "liger-rms-norm", "rope": "liger-rope", "swiglu": "liger-swiglu"}
"""Arguments of Liger's apply_liger_kernel_to_llama and its siblings as a plan's kernels."""

DECIDES: Final = {
    "precision": ("bf16", "fp16"),
    "master_weights": ("bf16", "fp16"),
    "step.checkpointing": ("gradient_checkpointing", "fsdp_config"),
    "step.use_reentrant": ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    "step.loss": ("use_liger_kernel",),
    "step.kernels": ("use_liger_kernel", "liger_kernel_config"),
}
"""Setting -> the Trainer's keys that decide it, whatever they say."""

ONE_GPU: Final = "several GPUs share the work, and the figures would be for one that holds everything"
SIZES: Final = (
    *("tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree"),
    *("dp_shard_size", "dp_replicate_size"),
)
"""Numbers of GPUs along a dimension; 1 is none."""
PARALLEL: Final = dict.fromkeys(
    ("deepspeed", "fsdp", "fsdp_config", "fsdp_version", *SIZES, "parallelism_config"), ONE_GPU
)
DECOMPOSED: Final = "what makes the adapters at the start, a decomposition of each weight, is not counted"
NO_TRAINING: Final = "it asks for no training"
COMPILED: Final = "compiled code needs other amounts"


def has_liger(table: Table) -> bool:
    """Whether Liger has kernels for the model, which is taken to be a LLaMA where it is not known."""
    model = bundled(str(table.get("model", "")))
    return model is None or model.config.get("model_type") in LIGER_MODELS


def take_liger(keys: Keys, key: str, table: Table) -> None:
    """A switch for all of Liger's kernels, the fused loss among them, where Liger has them for the model."""
    config = keys.take("liger_kernel_config")
    if config is not None:
        if not isinstance(config, dict):
            keys.refuse("liger_kernel_config", f"{show(config)} is not a table")
        keys.use("liger_kernel_config", "which of Liger's kernels")
    if not keys.flag(key, "Liger's kernels"):
        return
    if not has_liger(table):
        keys.use(key, "nothing: Liger has no kernels for this model")
        return
    chosen = config or {}
    kernels = [name for word, name in LIGER_KERNELS.items() if chosen.get(word, True) is True]
    set_path(table, "step.kernels", kernels)
    if chosen.get("fused_linear_cross_entropy", True) is True:
        set_path(table, "step.loss", "fused")
    elif chosen.get("cross_entropy"):
        keys.leave_out("liger_kernel_config", config, LIGER_LOSS)


LIGER_LOSS: Final = "Liger's cross entropy needs less than what is counted"


def take_attention(keys: Keys, key: str, table: Table) -> None:
    """attn_implementation."""
    name = keys.take(key)
    if name is None:
        return
    if not isinstance(name, str):
        keys.refuse(key, f"{show(name)} is not text")
    if name not in ATTENTION:
        keys.leave_out(key, name, "not a modelled attention; sdpa is taken")
        return
    set_path(table, "step.attention", ATTENTION[name])
    keys.use(key, f"step.attention {ATTENTION[name]}")


class Reentrant(NamedTuple):
    """Whether activation checkpointing is with use_reentrant where a config does not say, and whose default that is."""

    value: bool
    whose: str


def take_trainer(
    keys: Keys, table: Table, *, batch_default: int | None, reentrant_default: Reentrant | None = None
) -> None:
    """What every Trainer's config may say, by its own names. reentrant_default: None where the plan's own holds, or
    the table has it.
    """
    set_path(table, "step.batch_size", keys.number("per_device_train_batch_size", "step.batch_size"))
    if batch_default is not None and "batch_size" not in table.get("step", {}):
        set_path(table, "step.batch_size", batch_default)
        keys.assumed.append(f"batch size {batch_default}, transformers' default")
    set_path(table, "step.grad_accumulation", keys.number("gradient_accumulation_steps", "step.grad_accumulation"))
    _take_checkpointing(keys, table, reentrant_default)
    take_liger(keys, "use_liger_kernel", table)
    for key in SIZES:
        if keys.peek(key) == 1:
            keys.use(key, f"one GPU ({keys.take(key)})")
    keys.bar_if_set(PARALLEL)
    keys.bar_if_set(
        {
            "label_smoothing_factor": "the Trainer's own loss over log-probabilities would be another one",
            **dict.fromkeys(("use_cpu", "no_cuda"), "it trains on the processor"),
        }
    )
    if not keys.peek("do_train"):
        keys.bar_if_set({"do_predict": NO_TRAINING})
    keys.leave_out_if_set(
        {
            "auto_find_batch_size": "the batch may be halved until it fits; the figures are for the one given",
            "torch_compile": COMPILED,
            "torch_compile_backend": COMPILED,
            "torch_compile_mode": COMPILED,
            "neftune_noise_alpha": "noise of the embeddings' size is not counted",
            "torch_empty_cache_steps": "the figures are for an allocator that keeps its segments",
            "packing": "sequences are taken to be as long as their limit",
            "padding_free": "sequences are taken to be as long as their limit",
            "activation_offloading": "activations are counted where they are made",
            "use_cache": "keys and values that are kept are not counted",
        }
    )
    keys.disregard(TRAINER)


def _take_checkpointing(keys: Keys, table: Table, default: Reentrant | None) -> None:
    """The switch and its settings, by their names in transformers 5.23 and before. FSDP's switch is accelerate's, which
    passes no settings on (Accelerator._prepare_fsdp2 and CheckpointImpl.NO_REENTRANT).
    """
    switches = ("activation_checkpointing", "gradient_checkpointing")
    switched_on = any(keys.peek(switch) in (True, "true") for switch in switches)
    if table.get("step", {}).get("checkpointing") == "full":
        switched_on = True
    for key in (*switches, *map(".".join, NESTED)):
        offload = keys.peek(key)
        if keys.flag(key, "step.checkpointing full", also=("true", "unsloth", "offload", "offload_disk")):
            set_path(table, "step.checkpointing", "full")
            if offload in ("unsloth", "offload", "offload_disk"):
                keys.leave_out(key, offload, "activations that are offloaded are counted where they are made")
    for key in (f"{switch}_kwargs" for switch in switches):
        settings = keys.take(key)
        if settings is None:
            continue
        if not isinstance(settings, dict):
            keys.refuse(key, f"{show(settings)} is not a table")
        every = settings.get("every_n_layers", 1)
        if isinstance(every, bool) or not isinstance(every, int) or not 0 < every < 100_000:
            keys.refuse(key, f"every_n_layers {show(every)} is not a whole number above zero")
        became = "step.checkpointing"
        if every > 1 and table.get("step", {}).get("checkpointing") == "full":
            set_path(table, "step.checkpointing", f"every-{every}")
            became += f" every-{every}"
        default = Reentrant(_reentrant_in(keys, key, settings), "")
        keys.use(key, f"{became}, use_reentrant {str(default.value).lower()}")
        if settings.get("offload"):
            keys.leave_out(key, settings, "activations that are offloaded are counted where they are made")
    if not switched_on and table.get("step", {}).get("checkpointing") == "full":
        default = None  # FSDP's switch alone
    if default is not None:
        set_path(table, "step.use_reentrant", default.value or None)
        if default.whose and switched_on:
            keys.assumed.append(f"use_reentrant {str(default.value).lower()}, {default.whose}")


def _reentrant_in(keys: Keys, key: str, settings: Table) -> bool:
    """use_reentrant in the settings of checkpointing. Without it, transformers 5 takes false where it has no other
    settings to pass on, and torch.utils.checkpoint true where it has some.
    """
    value = settings.get("use_reentrant")
    if value is not None and not isinstance(value, bool):
        keys.refuse(key, f"use_reentrant {show(value)} is not true or false")
    return bool(settings.keys() - {"every_n_layers", "offload"}) if value is None else value


def precision_of(half: str, dtype: str) -> Table:
    """The plan's settings for autocast to `half` ("bf16", "fp16" or "") over weights of a type."""
    if not half:
        return {"precision": dtype or "fp32"}
    return {"precision": f"{half}-mixed", "master_weights": dtype in ("", "fp32")}


def take_half(keys: Keys) -> str:
    """bf16 or fp16, where autocast is switched on."""
    half = ""
    for word in ("bf16", "fp16"):  # both are taken, whichever is on: a key that nobody takes is not understood
        if keys.flag(word, f"autocast to {word}", also=("auto",)):
            half = half or word
    return half


def take_lora(keys: Keys, table: Table, names: dict[str, str], *, split: bool = False) -> None:
    """An adapter's settings.

    names: of rank, dropout, targets, of what makes it DoRA, and of what is trained whole beside it, in this config's
    words. split: as for take_targets.
    """
    dora = keys.flag(names["dora"], "method dora")
    set_path(table, "method.kind", "dora" if dora else "lora")
    set_path(table, "method.rank", keys.number(names["rank"], "method.rank"))
    set_path(table, "method.dropout", keys.share(names["dropout"], "method.dropout"))
    take_targets(keys, names["targets"], table, split=split)
    if saved := keys.names(names["saved"]):
        set_path(table, "method.modules_to_save", list(saved))
        keys.use(names["saved"], f"method.modules_to_save {', '.join(saved)}")


def take_targets(keys: Keys, key: str, table: Table, *, split: bool) -> None:
    """target_modules: names, a word for all linear layers of the blocks, or a pattern.

    split: a text is names with commas between them; else it is handed to peft as it is, for which it is a pattern.
    """
    text = keys.peek(key)
    words = ("all-linear", "all") if split else ("all-linear",)
    if isinstance(text, str) and text and text not in words and not split:
        pattern = keys.text(key, f"method.target_modules, the pattern {show(text)}")
        set_path(table, "method.target_modules", pattern)
        return
    names = keys.names(key)
    if not names:
        return
    if all(name in words for name in names):
        set_path(table, "method.target_modules", "all-linear")
        keys.use(key, "method.target_modules all-linear")
    else:
        set_path(table, "method.target_modules", list(names))
        keys.use(key, f"method.target_modules {', '.join(names)}")


def check_known(keys: Keys, key: str, value: Any, known: dict[str, str]) -> str:
    """One of some words; UserError with the nearest else."""
    if not isinstance(value, str) or value not in known:
        keys.refuse(key, f"{show(value)} is not modelled", f"modelled: {', '.join(known)}")
    return known[value]
