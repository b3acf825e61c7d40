"""LLaMA-Factory's YAML or JSON (llamafactory/hparams; model/loader.py and adapter.py for what is in which type)."""

from typing import Final

from memplanner.files.parse import Table
from memplanner.frameworks import trainer
from memplanner.frameworks.ignored_keys import LLAMA_FACTORY, LLAMA_FACTORY_PREFIXES
from memplanner.frameworks.keys import Keys, set_path
from memplanner.frameworks.models import model_dtype, model_name
from memplanner.frameworks.optimizers import take_optimizer, take_projected
from memplanner.frameworks.trainer import (
    DECOMPOSED,
    NO_TRAINING,
    ONE_GPU,
    Reentrant,
    check_known,
    take_half,
    take_liger,
    take_lora,
    take_trainer,
)
from memplanner.settings.errors import show

NAME: Final = "LLaMA-Factory"
KNOWN_BY: Final = "LLaMA-Factory (finetuning_type)"
OVER: Final = ()
DECIDES: Final = {
    **trainer.DECIDES,
    "quantization": ("quantization_bit",),
    "method": ("finetuning_type", "use_dora"),
    "method.target_modules": ("lora_target",),
    "method.modules_to_save": ("additional_target",),
    "optimizer": ("optim",),
    "step.attention": ("flash_attn",),
    "step.checkpointing": ("gradient_checkpointing", "disable_gradient_checkpointing"),
    "step.use_reentrant": ("use_reentrant_gc", "gradient_checkpointing_kwargs"),
    "step.loss": ("use_liger_kernel", "enable_liger_kernel"),
    "step.kernels": ("use_liger_kernel", "enable_liger_kernel"),
}

_STAGES: Final = {"sft": "sft", "pt": "pt"}
_TYPES: Final = {"lora": "lora", "full": "full"}
_ATTENTION: Final = {"auto": "sdpa", "disabled": "eager", "sdpa": "sdpa", "fa2": "flash-attention-2"}


def recognizes(config: Table) -> bool:
    """Any of the keys that are LLaMA-Factory's own."""
    return not config.keys().isdisjoint({"stage", "finetuning_type", "cutoff_len", "template"})


def read(keys: Keys, known: Table, *, alone: bool) -> Table:
    """The plan's raw table."""
    table: Table = {}
    model = keys.text("model_name_or_path", "model")
    if model is not None:
        table["model"] = model_name(model)
        keys.use("model_name_or_path", f"model {table['model']}")
    stage = keys.take("stage")
    if stage is not None:
        keys.use("stage", f"stage {check_known(keys, 'stage', stage, _STAGES)}")
    kind = keys.take("finetuning_type")
    if kind is None:
        keys.assumed.append("finetuning_type lora, LLaMA-Factory's default")
        kind = "lora"
    else:
        keys.use("finetuning_type", f"method {check_known(keys, 'finetuning_type', kind, _TYPES)}")
    adapted = kind == "lora"
    if adapted:
        names = {"rank": "lora_rank", "dropout": "lora_dropout", "targets": "lora_target", "dora": "use_dora"}
        take_lora(keys, table, {**names, "saved": "additional_target"}, split=True)
        if "target_modules" not in table["method"]:
            set_path(table, "method.target_modules", "all-linear")
            keys.assumed.append("lora_target all, LLaMA-Factory's default")
    else:
        table["method"] = {"kind": "full"}
        keys.disregard(("lora_rank", "lora_dropout", "lora_target", "use_dora", "additional_target"))
    _quantization(keys, table, adapted=adapted)
    _precision(keys, table, adapted=adapted)
    if table.get("kbit_preparation") == "norms" and table["precision"] in ("fp16", "bf16"):
        message = f"the head, in {table['precision']}, cannot multiply what norms in fp32 give it without autocast"
        keys.refuse("upcast_layernorm", message, "bf16: true or fp16: true, and no pure_bf16, is autocast")
    set_path(table, "step.seq_len", keys.number("cutoff_len", "step.seq_len"))
    if "seq_len" not in table.get("step", {}):
        set_path(table, "step.seq_len", 2048)
        keys.assumed.append("cutoff_len 2048, LLaMA-Factory's default")
    attention = keys.take("flash_attn")
    if attention is not None:
        set_path(table, "step.attention", check_known(keys, "flash_attn", attention, _ATTENTION))
        keys.use("flash_attn", f"step.attention {_ATTENTION[attention]}")
    galore = bool(keys.peek("use_galore"))  # its GaLoreAdamW is the counterpart of adamw_torch alone
    take_optimizer(keys, "optim", table, default="adamw_torch" if galore else "adamw_torch_fused")
    _galore(keys, table)
    if keys.peek("use_galore") or keys.peek("loraplus_lr_ratio") or table["method"]["kind"] == "galore":
        # train/trainer_utils.py makes these two itself, without the Trainer's word to bitsandbytes about embeddings.
        table["optimizer"].pop("whole_embeddings", None)
    reentrant = _checkpointing(keys, table)
    take_liger(keys, "enable_liger_kernel", table)
    keys.leave_out_if_set(
        {
            "packing": "sequences are taken to be as long as cutoff_len",
            "neat_packing": "sequences are taken to be as long as cutoff_len",
            "use_unsloth": "Unsloth's kernels need less than what is counted",
            "use_unsloth_gc": "activations that are offloaded are counted where they are made",
            "shift_attn": "not a modelled attention",
            **({} if "quantization" in table else {"upcast_layernorm": "the norms are counted in the weights' type"}),
            "upcast_lmhead_output": "the logits are counted in the weights' type",
        }
    )
    keys.bar_if_set(
        {
            # New tokens switch resize_vocab on (model/patcher.py, patch_tokenizer).
            **dict.fromkeys(
                ("resize_vocab", "new_special_tokens"),
                "the larger vocabulary, and copies of embeddings and head for it, are not counted",
            ),
            "mixture_of_depths": "tokens skip blocks",
            **dict.fromkeys(
                ("use_badam", "use_apollo", "use_adam_mini", "use_muon"), "another optimizer would be counted"
            ),
            **dict.fromkeys(
                ("freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model"),
                "the text model alone would be counted",
            ),
            "use_llama_pro": "which blocks are trained is not read, and all would be",
            **dict.fromkeys(("use_dft_loss", "use_asft_loss", "use_eaft_loss"), "another loss would be counted"),
        }
    )
    if keys.peek("ray_num_workers") == 1:
        keys.use("ray_num_workers", f"one GPU ({keys.take('ray_num_workers')})")
    keys.bar_if_set({"ray_num_workers": ONE_GPU})
    keys.leave_out_if_set({"pissa_init": DECOMPOSED})
    if not keys.peek("do_train"):  # llamafactory-cli's other commands read files of the same kind
        keys.bar_if_set(dict.fromkeys(("do_eval", "export_dir", "infer_backend"), NO_TRAINING))
    take_trainer(keys, table, batch_default=8, reentrant_default=reentrant)
    keys.disregard(LLAMA_FACTORY, LLAMA_FACTORY_PREFIXES)
    return table


def _quantization(keys: Keys, table: Table, *, adapted: bool) -> None:
    bits = keys.number("quantization_bit", "quantization, bits")
    double = "double_quantization" not in keys or keys.flag("double_quantization", "nf4-double")
    method = keys.take("quantization_method")
    if method is not None and bits is None:
        keys.use("quantization_method", "nothing: there is no quantization_bit")
    elif method is not None:
        if method not in ("bnb", "bitsandbytes"):
            keys.refuse("quantization_method", f"{show(method)} is not modelled", "bnb is")
        keys.use("quantization_method", "quantization, bitsandbytes'")
    if bits is None:
        return
    if bits not in (4, 8):
        keys.refuse("quantization_bit", f"{bits} is not modelled", "4 and 8 are")
    if not adapted:
        keys.refuse("quantization_bit", "needs finetuning_type lora")
    table["quantization"] = "int8" if bits == 8 else "nf4-double" if double else "nf4"
    # Its loader casts the norms alone, and only if asked to; peft's own preparation is not called.
    table["kbit_preparation"] = "norms" if keys.flag("upcast_layernorm", "kbit_preparation norms") else "none"


def _precision(keys: Keys, table: Table, *, adapted: bool) -> None:
    """A base that is frozen stays in half precision; what is trained goes to fp32, but for pure_bf16."""
    half = take_half(keys)
    if keys.flag("pure_bf16", "precision bf16"):
        table["precision"] = "bf16"
        if adapted:  # model/adapter.py: adapters are upcast unless pure_bf16 is on
            set_path(table, "method.adapter_dtype", "base")
        return
    if "modules_to_save" in table["method"]:  # model/adapter.py: so is all else that is trained
        set_path(table, "method.modules_to_save_dtype", "fp32")
    if half:
        table |= {"precision": f"{half}-mixed", "master_weights": not adapted}
    elif adapted:
        dtype = model_dtype(str(table.get("model", ""))) or "bf16"
        table["precision"] = "fp16" if dtype == "fp32" else dtype
        keys.assumed.append(f"weights loaded in {table['precision']}, which LLaMA-Factory infers from the model")
    else:
        table["precision"] = "fp32"


def _galore(keys: Keys, table: Table) -> None:
    if not keys.flag("use_galore", "method galore"):
        keys.disregard(("galore_rank", "galore_target", "galore_layerwise"))
        return
    if table["method"]["kind"] != "full":
        keys.refuse("use_galore", "needs finetuning_type full")
    table["method"] = {"kind": "galore"}
    set_path(table, "method.rank", keys.number("galore_rank", "method.rank") or 16)
    set_path(table, "method.refresh_interval", keys.number("galore_update_interval", "method.refresh_interval"))
    take_projected(keys, "galore_target", table)
    if keys.flag("galore_layerwise", "step.per_layer_updates"):
        set_path(table, "step.per_layer_updates", True)


def _checkpointing(keys: Keys, table: Table) -> Reentrant | None:
    """On by default, whatever the Trainer's own switch says; and with use_reentrant. Where the Trainer's switch is on,
    the Trainer switches it on once more, by its own settings (model/model_utils/checkpointing.py,
    prepare_model_for_training and _gradient_checkpointing_enable).
    """
    said = keys.peek("use_reentrant_gc") is not None
    reentrant = keys.flag("use_reentrant_gc", "step.use_reentrant true") or not said
    if keys.flag("disable_gradient_checkpointing", "step.checkpointing none"):
        return None
    set_path(table, "step.checkpointing", "full")
    if "disable_gradient_checkpointing" not in keys.used and "gradient_checkpointing" not in keys:
        keys.assumed.append("gradient checkpointing, which LLaMA-Factory switches on")
    if said and not keys.peek("gradient_checkpointing"):
        return Reentrant(reentrant, "")
    return Reentrant(True, "LLaMA-Factory's default")
