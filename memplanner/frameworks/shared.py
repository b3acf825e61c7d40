"""What configs have in common, since all of these frameworks run transformers' Trainer."""

import functools
import re
from typing import Any, Final

from memplanner.frameworks.keys import Keys, put
from memplanner.frameworks.without_bearing import TRAINER
from memplanner.problems import show, suggest
from memplanner.profiles import ModelProfile, all_models
from memplanner.profiles import key as spelling
from memplanner.reading import Table

OPTIMIZERS: Final[dict[str, Table]] = {
    "adamw_torch": {"kind": "adamw", "implementation": "foreach"},
    "adamw_torch_fused": {"kind": "adamw", "implementation": "fused"},
    "adamw_bnb_8bit": {"kind": "adamw-8bit"},
    "adamw_8bit": {"kind": "adamw-8bit"},
    "paged_adamw_8bit": {"kind": "adamw-8bit"},
    "paged_adamw_32bit": {"kind": "adamw", "implementation": "fused", "state_dtype": "fp32"},
    "paged_adamw": {"kind": "adamw", "implementation": "fused", "state_dtype": "fp32"},
    "adafactor": {"kind": "adafactor"},
    "sgd": {"kind": "sgd"},
}
"""Names of transformers' OptimizerNames as optimizers of a plan. bitsandbytes' 32-bit AdamW keeps fp32 moments and, as
the fused one, makes no temporaries."""

GALORE: Final[dict[str, Table]] = {
    "galore_adamw": {"kind": "adamw"},
    "galore_adamw_8bit": {"kind": "adamw-8bit"},
    "galore_adafactor": {"kind": "adafactor"},
}
"""The same over galore_torch's projection; with _layerwise after it, updated in backward."""

ATTENTION: Final = {
    "eager": "eager",
    "sdpa": "sdpa",
    "flash_attention_2": "flash-attention-2",
    "flash_attention_3": "flash-attention-2",
}
"""attn_implementation as a plan's attention."""

LAYERS: Final = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""Linear layers of a Llama's block."""

LIGER_MODELS: Final = ("llama", "mistral", "qwen2", "qwen3")

ONE_GPU: Final = "the figures are for one GPU that holds everything"
PARALLEL: Final = dict.fromkeys(
    (
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "fsdp_version",
        "tensor_parallel_size",
        "context_parallel_size",
        "sequence_parallel_degree",
        "dp_shard_size",
        "dp_replicate_size",
        "parallelism_config",
    ),
    ONE_GPU,
)
COMPILED: Final = "compiled code needs other amounts"


_TAIL: Final = re.compile(r"(-hf|-instruct|-chat|-base|-it)(-v\d[\w.]*)?$|-v\d[\w.]*$", re.IGNORECASE)


def model_name(name: str) -> str:
    """A hub name as memplanner knows the model, else as it is: tuned versions have their base's shapes."""
    if name.startswith((".", "/", "~")) or name.endswith(".json"):
        return name
    short = name.rpartition("/")[2]
    tried = [name, short]
    while (shorter := _TAIL.sub("", tried[-1])) != tried[-1]:
        tried.append(shorter)
    for candidate in tried:
        if found := bundled(candidate):
            return found.id
    return name


def bundled(name: str) -> ModelProfile | None:
    """A bundled model by its name. No file that a config names is looked for, let alone read."""
    return _bundled().get(spelling(name))


@functools.cache
def _bundled() -> dict[str, ModelProfile]:
    names = [(name, model) for model in all_models() for name in (model.name, *model.aliases)]
    return {spelling(name): model for name, model in (*names, *((model.id, model) for model in all_models()))}


def model_dtype(model: str) -> str:
    """The type a known model's weights are published in: "bf16", "fp16" or "fp32"; "" where it is not known."""
    found = bundled(model)
    if found is None:
        return ""
    config = found.config
    words = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
    return words.get(str(config.get("dtype") or config.get("torch_dtype")), "")


def take_optimizer(keys: Keys, key: str, table: Table, *, default: str) -> None:
    """The optimizer's name, and GaLore's settings with it."""
    name = keys.take(key)
    if name is None:
        keys.assumed.append(f"optimizer {default}, transformers' default")
        table["optimizer"] = dict(OPTIMIZERS[default])
        return
    if not isinstance(name, str):
        keys.wrong(key, f"{show(name)} is not text")
    word = name.removesuffix("_layerwise")
    known = OPTIMIZERS.get(name) or GALORE.get(word)
    if known is None:
        names = [*OPTIMIZERS, *GALORE]
        keys.wrong(key, f"the optimizer {show(name)} is not modelled", suggest(name, names))
    keys.use(key, f"optimizer {known['kind']}" + (f" {known['implementation']}" if "implementation" in known else ""))
    table["optimizer"] = dict(known)
    if name.startswith("paged_"):
        keys.leave_out(key, name, "its states can be paged out of the GPU; the figures hold all of them there")
    if word in GALORE:
        put(table, "method.kind", "galore")
        if name != word:
            put(table, "step.per_layer_updates", True)
        _take_galore(keys, table)


def _take_galore(keys: Keys, table: Table) -> None:
    arguments = keys.take("optim_args")
    if arguments is not None:
        if not isinstance(arguments, str):
            keys.wrong("optim_args", f"{show(arguments)} is not text such as 'rank=128,update_proj_gap=200'")
        said = dict(part.strip().partition("=")[::2] for part in arguments.split(",") if part.strip())
        for word, path in (("rank", "method.rank"), ("update_proj_gap", "method.refresh_interval")):
            if word in said:
                if not re.fullmatch(r"[1-9]\d{0,8}", said[word], re.ASCII):
                    keys.wrong("optim_args", f"{word}={show(said[word])} is not a whole number above zero")
                put(table, path, int(said[word]))
        keys.use("optim_args", ", ".join(f"{word} {said[word]}" for word in said))
    take_projected(keys, "optim_target_modules", table)


def take_projected(keys: Keys, key: str, table: Table) -> None:
    """GaLore's targets: any layer whose path has one of the words in it is projected: "attn" stands for four."""
    words = [word.removeprefix(".*").removesuffix(".*") for word in keys.names(key)]
    if not words:
        return
    if not all(re.fullmatch(r"[\w.-]+", word, re.ASCII) for word in words):
        keys.leave_out(key, ", ".join(words), "a pattern; the method's default modules are taken")
        return
    names: list[str] = []
    for word in words:
        if word in ("all", "all-linear", "all_linear"):
            names += LAYERS
        elif any(layer.endswith(f".{word}") for layer in LAYERS):
            names.append(word)
        else:
            names += [layer for layer in LAYERS if word in layer] or [word]
    names = list(dict.fromkeys(names))
    if set(LAYERS) <= set(names):
        names = ["all-linear", *(name for name in names if name not in LAYERS)]
    put(table, "method.target_modules", names)
    keys.use(key, f"method.target_modules {', '.join(names)}")


def take_liger(keys: Keys, key: str, table: Table) -> None:
    """A switch for all of Liger's kernels, the fused loss among them, where Liger has them for the model."""
    config = keys.take("liger_kernel_config")
    if config is not None:
        if not isinstance(config, dict):
            keys.wrong("liger_kernel_config", f"{show(config)} is not a table")
        keys.use("liger_kernel_config", "which of Liger's kernels")
    if not keys.flag(key, "Liger's kernels"):
        return
    model = bundled(str(table.get("model", "")))
    if model is not None and model.config.get("model_type") not in LIGER_MODELS:
        keys.use(key, "nothing: Liger has no kernels for this model")
        return
    if config is None or config.get("fused_linear_cross_entropy", True) is True:
        put(table, "step.loss", "fused")
        keys.leave_out(key, True, "its fused loss is counted; its other kernels need less than what is counted")
    else:
        keys.leave_out(key, True, "Liger's kernels need less than what is counted")


def take_targets(keys: Keys, key: str, table: Table, *, everything: tuple[str, ...] = ("all-linear", "all")) -> None:
    """target_modules: names, or a word for all linear layers of the blocks; a pattern is left out and said so."""
    names = keys.names(key)
    if not names:
        return
    if all(name in everything for name in names):
        put(table, "method.target_modules", "all-linear")
        keys.use(key, "method.target_modules all-linear")
    elif all(re.fullmatch(r"[\w.-]+", name, re.ASCII) for name in names):
        put(table, "method.target_modules", list(names))
        keys.use(key, f"method.target_modules {', '.join(names)}")
    else:
        keys.leave_out(key, ", ".join(names), "a pattern; the method's default modules are taken")


def take_attention(keys: Keys, key: str, table: Table) -> None:
    """attn_implementation."""
    name = keys.take(key)
    if name is None:
        return
    if not isinstance(name, str):
        keys.wrong(key, f"{show(name)} is not text")
    if name not in ATTENTION:
        keys.leave_out(key, name, "not a modelled attention; sdpa is taken")
        return
    put(table, "step.attention", ATTENTION[name])
    keys.use(key, f"step.attention {ATTENTION[name]}")


def take_trainer(keys: Keys, table: Table, *, batch_default: int | None) -> None:
    """What every Trainer's config may say, by its own names."""
    put(table, "step.batch_size", keys.number("per_device_train_batch_size", "step.batch_size"))
    if batch_default is not None and "batch_size" not in table.get("step", {}):
        put(table, "step.batch_size", batch_default)
        keys.assumed.append(f"batch size {batch_default}, transformers' default")
    put(table, "step.grad_accumulation", keys.number("gradient_accumulation_steps", "step.grad_accumulation"))
    _take_checkpointing(keys, table)
    take_liger(keys, "use_liger_kernel", table)
    keys.leave_out_if_set(
        {
            **PARALLEL,
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


def _take_checkpointing(keys: Keys, table: Table) -> None:
    """The switch and its settings, by their names in transformers 5.23 and before."""
    switches = ("activation_checkpointing", "gradient_checkpointing")
    for key in switches:
        offload = keys.peek(key)
        if keys.flag(key, "step.checkpointing full", also=("true", "unsloth", "offload", "offload_disk")):
            put(table, "step.checkpointing", "full")
            if offload in ("unsloth", "offload", "offload_disk"):
                keys.leave_out(key, offload, "activations that are offloaded are counted where they are made")
    for key in (f"{switch}_kwargs" for switch in switches):
        said = keys.take(key)
        if said is None:
            continue
        if not isinstance(said, dict):
            keys.wrong(key, f"{show(said)} is not a table")
        every = said.get("every_n_layers", 1)
        if isinstance(every, bool) or not isinstance(every, int) or not 0 < every < 100_000:
            keys.wrong(key, f"every_n_layers {show(every)} is not a whole number above zero")
        keys.use(key, "step.checkpointing")
        if every > 1 and table.get("step", {}).get("checkpointing") == "full":
            put(table, "step.checkpointing", f"every-{every}")
            keys.use(key, f"step.checkpointing every-{every}")
        if said.get("offload"):
            keys.leave_out(key, said, "activations that are offloaded are counted where they are made")


def precision_of(half: str, dtype: str) -> Table:
    """The plan's settings for autocast to `half` ("bf16", "fp16" or "") over weights of a type."""
    if not half:
        return {"precision": dtype or "fp32"}
    return {"precision": f"{half}-mixed", "master_weights": dtype in ("", "fp32")}


def take_half(keys: Keys) -> str:
    """bf16 or fp16, where autocast is switched on."""
    found = ""
    for word in ("bf16", "fp16"):
        if keys.flag(word, f"autocast to {word}", also=("auto",)):
            found = found or word
    return found


def as_lora(keys: Keys, table: Table, names: dict[str, str]) -> None:
    """An adapter's settings. names: of rank, dropout, targets, and of what makes it DoRA, in this config's words."""
    dora = keys.flag(names["dora"], "method dora")
    put(table, "method.kind", "dora" if dora else "lora")
    put(table, "method.rank", keys.number(names["rank"], "method.rank"))
    put(table, "method.dropout", keys.share(names["dropout"], "method.dropout"))
    take_targets(keys, names["targets"], table)


def check_known(keys: Keys, key: str, value: Any, known: dict[str, str]) -> str:
    """One of some words; UserError with the nearest else."""
    if not isinstance(value, str) or value not in known:
        keys.wrong(key, f"{show(value)} is not modelled", f"modelled: {', '.join(known)}")
    return known[value]
