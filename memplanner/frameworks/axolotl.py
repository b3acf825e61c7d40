"""Axolotl's YAML (docs.axolotl.ai/docs/config-reference.html)."""

from typing import Final

from memplanner.files.parse import Table
from memplanner.frameworks import trainer
from memplanner.frameworks.ignored_keys import AXOLOTL, AXOLOTL_PREFIXES
from memplanner.frameworks.keys import Keys, set_path
from memplanner.frameworks.models import model_name
from memplanner.frameworks.optimizers import take_optimizer
from memplanner.frameworks.trainer import (
    LIGER_LOSS,
    ONE_GPU,
    Reentrant,
    has_liger,
    precision_of,
    take_attention,
    take_half,
    take_lora,
    take_trainer,
)
from memplanner.settings.errors import show

NAME: Final = "Axolotl"
KNOWN_BY: Final = "Axolotl (base_model)"
OVER: Final = ()
DECIDES: Final = {
    **trainer.DECIDES,
    "quantization": ("load_in_4bit", "load_in_8bit"),
    "method": ("adapter",),
    "method.target_modules": ("lora_target_modules", "lora_target_linear"),
    "method.modules_to_save": ("lora_modules_to_save",),
    "optimizer": ("optimizer",),
    "step.attention": ("attn_implementation", "flash_attention", "sdp_attention"),
    "step.loss": (
        "use_liger_kernel",
        "liger_fused_linear_cross_entropy",
        "cut_cross_entropy",
        "plugins",
    ),
    "fp32_embeddings": ("attn_implementation", "flash_attention", "sdp_attention", "eager_attention"),
    "step.kernels": ("liger_rms_norm", "liger_rope", "liger_glu_activation", "liger_swiglu"),
    "method.kernels": ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"),
}

LIGER: Final = {
    "liger_rms_norm": "liger-rms-norm",
    "liger_rope": "liger-rope",
    "liger_glu_activation": "liger-swiglu",
    "liger_swiglu": "liger-swiglu",
}
"""Switches of Liger's plugin as a plan's kernels (integrations/liger/plugin.py)."""

LORA_KERNELS: Final = {"lora_mlp_kernel": "mlp", "lora_qkv_kernel": "qkv", "lora_o_kernel": "o"}
"""Switches of Axolotl's own kernels for LoRA as a method's (monkeypatch/lora_kernels.py)."""
EMBEDDING_KERNEL: Final = "lora_embedding_kernel"


def recognizes(config: Table) -> bool:
    """Every config of Axolotl's names its base_model."""
    return config.get("base_model") is not None


def read(keys: Keys, known: Table, *, alone: bool) -> Table:
    """The plan's raw table."""
    table: Table = {}
    model = keys.text("base_model", "model")
    if model is None:
        keys.refuse("base_model", "names no model")
    table["model"] = model_name(model)
    keys.use("base_model", f"model {table['model']}")
    if (rl := keys.take("rl")) is not None:
        keys.refuse("rl", f"{show(rl)} is not modelled", "fine-tuning and pre-training are")
    _adapter(keys, table)
    chosen = any(word in keys for word in ("fp16", "bfloat16", "float16")) or keys.mentions("bf16")
    half = take_half(keys)
    if not chosen:  # a bf16 that is null switches off what Axolotl takes where there is none
        half = "bf16"
        keys.assumed.append("bf16 auto, Axolotl's default, on a GPU that has it")
    pure = keys.flag("bfloat16", "precision bf16") or keys.flag("float16", "precision fp16")
    keys.disregard(("tf32",))
    if pure and not half:
        table["precision"] = "bf16" if keys.used.get("bfloat16") != "off" and "bfloat16" in keys.used else "fp16"
    else:
        table |= precision_of(half, half)
    set_path(table, "step.batch_size", keys.number("micro_batch_size", "step.batch_size"))
    if "batch_size" in keys:
        keys.leave_out(
            "batch_size", keys.take("batch_size"), "micro_batch_size and gradient_accumulation_steps are read"
        )
    set_path(table, "step.seq_len", keys.number("sequence_len", "step.seq_len"))
    if "seq_len" not in table.get("step", {}):
        set_path(table, "step.seq_len", 512)
        keys.assumed.append("sequence_len 512, Axolotl's default")
    _attention(keys, table)
    take_optimizer(keys, "optimizer", table, default="adamw_torch_fused")
    lora_kernels = _lora_kernels(keys, table)
    _plugins(keys, table, own_attention=not {"lora_qkv_kernel", "lora_o_kernel"}.isdisjoint(lora_kernels))
    keys.leave_out_if_set(
        {
            "sample_packing": "sequences are taken to be as long as sequence_len",
            "multipack_real_batches": "sequences are taken to be as long as sequence_len",
            **dict.fromkeys(("unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o"), "fused adapters need less"),
            "flash_attn_fuse_mlp": "fused blocks need less than what is counted",
            "resize_token_embeddings_to_32x": "up to 31 rows more of embeddings and head are not counted",
        }
    )
    keys.bar_if_set(
        {
            "unfrozen_parameters": "which weights are frozen is not read, and all would be trained",
            "peft_ensure_weight_tying": "tied adapters and copies are counted twice",
            "relora": "merging and restarting is not counted",
            "relora_steps": "merging and restarting is not counted",
            "reward_model": "a head of its own takes the language model's place",
            "process_reward_model": "a head of its own takes the language model's place",
            "num_labels": "a head of its own takes the language model's place",
            "gptq": "a base that is quantised already is not modelled",
            "lisa_n_layers": "which blocks are trained is not read, and all would be",
            "use_ray": ONE_GPU,
        }
    )
    _class(keys)
    _embeddings(keys, table)
    take_trainer(keys, table, batch_default=None, reentrant_default=_reentrant(keys))
    keys.disregard(AXOLOTL, AXOLOTL_PREFIXES)
    return table


def _class(keys: Keys) -> None:
    """model_type, or type_of_model, is the class of transformers that loads the model; without one, that of the
    language model.
    """
    for key in ("model_type", "type_of_model"):
        if (name := keys.take(key)) is None:
            continue
        if isinstance(name, str) and name.endswith(("ForCausalLM", "LMHeadModel")):
            keys.use(key, "the language model's head")
        else:
            keys.bar(key, name, "another head takes the language model's place, or another model is loaded")


def _reentrant(keys: Keys) -> Reentrant | None:
    """What Axolotl passes on where gradient_checkpointing_kwargs is not set (utils/config, normalize_config; since
    January 2024). Offloading, and "offload" in the switch's place, is another kind of checkpointing.
    """
    offloads = bool(keys.peek("activation_offloading")) or isinstance(keys.peek("gradient_checkpointing"), str)
    return None if offloads else Reentrant(True, "Axolotl's default")


_CAST: Final = ("xformers_attention", "flex_attention", "s2_attention", "attn_implementation")


def _embeddings(keys: Keys, table: Table) -> None:
    """Embeddings, norms and head go to fp32, and back only for an adapter, for an attention that needs half precision
    and for Cut Cross Entropy (loaders/model.py, _configure_embedding_dtypes).
    """
    step = table.get("step", {})
    kept = step.get("attention", "sdpa") in ("sdpa", "eager") and keys.not_modelled.keys().isdisjoint(_CAST)
    full = table["method"]["kind"] in ("full", "galore") and table.get("master_weights") is False
    if full and kept and step.get("loss") != "cut-cross-entropy":
        table["fp32_embeddings"] = True
        keys.assumed.append(
            "embeddings, norms and head in fp32, as Axolotl's loader leaves them without flash attention"
        )


def _lora_kernels(keys: Keys, table: Table) -> list[str]:
    """The keys of Axolotl's kernels for LoRA that are on: those that are named, or else all, where it switches them on
    by itself (utils/schemas/config.py, check_auto_enable_lora_kernels). Several GPUs matter to that with FSDP alone.
    """
    is_named = any(key in keys for key in (*LORA_KERNELS, EMBEDDING_KERNEL))
    chosen = [key for key, kernel in LORA_KERNELS.items() if keys.flag(key, f"method.kernels {kernel}")]
    with_embedding = keys.flag(EMBEDDING_KERNEL, "nothing: no embedding has an adapter") or not is_named
    method, quantization = table["method"]["kind"], table.get("quantization")
    is_adapter, remote_code = method in ("lora", "dora"), bool(keys.peek("trust_remote_code"))
    if not is_named and is_adapter and quantization != "int8" and not remote_code:
        chosen = list(LORA_KERNELS)
    if not chosen:
        return []
    against = ""
    if not is_adapter:
        against = "needs an adapter"
    elif quantization == "int8":
        against = "does not go with load_in_8bit"  # utils/schemas/validation.py, check_lora_kernels_8bit
    elif remote_code:
        against = "does not go with trust_remote_code"  # the same, check_lora_kernels_trust_remote_code
    elif not has_liger(table):  # monkeypatch/lora_kernels.py, patch_self_attn_lora and get_layers, raise for others
        against = "has no place in this model"
    if against and is_named:
        keys.refuse(chosen[0], against, f"{chosen[0]}: false")
    if against:
        keys.assumed.append(f"{', '.join(chosen)} false: Axolotl switches them on by itself, and does not run so")
        return []
    if method == "dora":
        _not_modelled(keys, chosen, is_named, "DoRA as peft computes it, which needs more than Axolotl's kernels")
    else:
        kernels = [LORA_KERNELS[key] for key in chosen]
        set_path(table, "method.kernels", kernels)
        if not is_named:
            since = "; Axolotl before 0.16 does not with lora_dropout" if table["method"].get("dropout") else ""
            switched = f"method.kernels {', '.join(kernels)}, which Axolotl switches on by itself for LoRA"
            keys.assumed.append(switched + since)
        if with_embedding and "embed" in str(table["method"].get("target_modules", "")):
            instead = "the embeddings' adapter as peft computes it, without the copy of it that Axolotl's kernel keeps"
            _not_modelled(keys, [EMBEDDING_KERNEL], is_named, instead)
    return chosen


def _not_modelled(keys: Keys, chosen: list[str], is_named: bool, instead: str) -> None:
    """Kernels that Axolotl has for this method and the plan has not."""
    if is_named:
        for key in chosen:
            keys.leave_out(key, True, f"counted is {instead}")
    else:
        keys.assumed.append(f"{instead} (on by default)")


def _plugins(keys: Keys, table: Table, *, own_attention: bool) -> None:
    """Liger's and Spectrum's plugins do nothing without keys of their own, nor these without the plugin, since the
    config's schema has them from it alone (utils/config, merge_input_args); what another plugin changes is not known.
    own_attention: Axolotl's kernels for LoRA have exchanged the attention's code.
    """
    names = keys.names("plugins")
    packages = {name: name.removeprefix("axolotl.integrations.").partition(".")[0] for name in names}
    barring = [name for name, package in packages.items() if package not in ("liger", "cut_cross_entropy")]
    if names:
        keys.use("plugins", "nothing by themselves")
    _liger(keys, table, listed="liger" in packages.values(), own_attention=own_attention)
    _cut(keys, table, listed="cut_cross_entropy" in packages.values())
    if barring:
        keys.bar("plugins", ", ".join(barring), "what such a plugin changes is not known")


def _liger(keys: Keys, table: Table, *, listed: bool, own_attention: bool) -> None:
    loss = "liger_fused_linear_cross_entropy"
    kernels = []
    for key in (*LIGER, loss, "liger_layer_norm", "liger_rms_norm_gated", "liger_cross_entropy"):
        if not keys.flag(key, f"step.kernels {LIGER.get(key)}"):
            continue
        if not listed:
            keys.use(key, "nothing: `plugins` does not list Liger's")
        elif key == loss:  # for other models than its own, Axolotl has a patch for any
            set_path(table, "step.loss", "fused")
            keys.use(key, "step.loss fused")
        elif key == "liger_cross_entropy":
            keys.leave_out(key, True, LIGER_LOSS)
        elif key == "liger_rope" and own_attention:  # ModelLoader.load exchanges the attention before the rotation
            keys.use(key, "nothing: Axolotl's kernels for LoRA come with an attention that keeps its own rotation")
        elif key in LIGER and has_liger(table):
            kernels.append(LIGER[key])
        else:
            keys.use(key, "nothing: Liger has no such kernel for this model")
    if kernels:
        set_path(table, "step.kernels", kernels)
    if listed:
        keys.bar_if_set({"liger_use_token_scaling": "the softmax of a chunk's logits is not counted"})


def _cut(keys: Keys, table: Table, *, listed: bool) -> None:
    """On once the plugin is listed (integrations/cut_cross_entropy/args.py)."""
    said = keys.mentions("cut_cross_entropy") and keys.peek("cut_cross_entropy") is not None
    wanted = keys.flag("cut_cross_entropy", "step.loss cut-cross-entropy") or not said
    if not listed:
        if said and wanted:
            keys.use("cut_cross_entropy", "nothing: `plugins` does not list its plugin")
        return
    if not wanted:
        return
    if "loss" in table.get("step", {}):
        keys.bar("plugins", "CutCrossEntropyPlugin", "liger_fused_linear_cross_entropy asks for another loss")
        return
    set_path(table, "step.loss", "cut-cross-entropy")
    keys.use("plugins", "step.loss cut-cross-entropy")


def _adapter(keys: Keys, table: Table) -> None:
    adapter = keys.take("adapter")
    four, eight = keys.flag("load_in_4bit", "quantization nf4"), keys.flag("load_in_8bit", "quantization int8")
    if adapter is None:
        table["method"] = {"kind": "full"}
        if four or eight:
            keys.refuse("load_in_4bit" if four else "load_in_8bit", "needs an adapter", "adapter: qlora")
        keys.disregard(("lora_r", "lora_dropout", "lora_target_modules", "lora_target_linear", "peft_use_dora"))
        keys.disregard(("lora_modules_to_save",))
        return
    if adapter not in ("lora", "qlora"):
        keys.refuse("adapter", f"{show(adapter)} is not modelled", "lora and qlora are")
    keys.use("adapter", f"method {adapter}")
    names = {"rank": "lora_r", "dropout": "lora_dropout", "targets": "lora_target_modules", "dora": "peft_use_dora"}
    take_lora(keys, table, {**names, "saved": "lora_modules_to_save"})
    if keys.flag("lora_target_linear", "method.target_modules all-linear"):  # beside those that are named
        named = table["method"].get("target_modules", [])
        set_path(table, "method.target_modules", ["all-linear", *([named] if isinstance(named, str) else named)])
    upcast = "peft_autocast_adapter_dtype"  # passed to peft's get_peft_model as it is
    if upcast in keys and not keys.flag(upcast, "method.adapter_dtype fp32, peft's default"):
        set_path(table, "method.adapter_dtype", "base")
        keys.use(upcast, "method.adapter_dtype base")
    if four or (adapter == "qlora" and not eight):
        table["quantization"] = "nf4-double"  # axolotl/loaders/model.py: bnb_4bit_use_double_quant=True
    elif eight:
        table["quantization"] = "int8"
    table["kbit_preparation"] = "none"
    if "quantization" in table:
        keys.assumed.append("norms, embeddings and head back in half precision, as Axolotl's loader leaves them")


def _attention(keys: Keys, table: Table) -> None:
    switches = {
        "flash_attention": "flash-attention-2",
        "sdp_attention": "sdpa",
        "eager_attention": "eager",
    }
    for key, attention in switches.items():
        if keys.flag(key, f"step.attention {attention}", also=("auto",)):
            set_path(table, "step.attention", attention)
    take_attention(keys, "attn_implementation", table)
    keys.leave_out_if_set(
        dict.fromkeys(
            ("xformers_attention", "flex_attention", "s2_attention"), "not a modelled attention; sdpa is taken"
        )
    )
