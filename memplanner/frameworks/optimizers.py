"""Optimizers by transformers' names, GaLore's among them, and the modules that GaLore projects."""

import re
from typing import Final

from memplanner.files.parse import Table
from memplanner.frameworks.keys import Keys, set_path
from memplanner.settings.errors import show, suggest

OPTIMIZERS: Final[dict[str, Table]] = {
    "adamw_torch": {"kind": "adamw", "implementation": "foreach"},
    "adamw_torch_fused": {"kind": "adamw", "implementation": "fused"},
    "adamw_bnb_8bit": {"kind": "adamw-8bit", "whole_embeddings": True},
    "adamw_8bit": {"kind": "adamw-8bit", "whole_embeddings": True},
    "adamw_torch_8bit": {"kind": "adamw-8bit", "format": "torchao"},
    "paged_adamw_8bit": {"kind": "adamw-8bit", "is_paged": True, "whole_embeddings": True},
    "paged_adamw_32bit": {"kind": "adamw", "implementation": "bitsandbytes", "is_paged": True},
    "paged_adamw": {"kind": "adamw", "implementation": "bitsandbytes", "is_paged": True},
    "adafactor": {"kind": "adafactor"},
    "sgd": {"kind": "sgd"},
}
"""Names of transformers' OptimizerNames as optimizers of a plan. The Trainer of transformers 5 has
bitsandbytes keep embeddings' moments in fp32 beside 8-bit ones (trainer.py, create_optimizer)."""

GALORE: Final[dict[str, Table]] = {
    "galore_adamw": {"kind": "adamw"},
    "galore_adamw_8bit": {"kind": "adamw-8bit"},
    "galore_adafactor": {"kind": "adafactor"},
}
"""The same over galore_torch's projection; with _layerwise after it, updated in backward."""

LAYERS: Final = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""Linear layers of a Llama's block."""


def take_optimizer(keys: Keys, key: str, table: Table, *, default: str) -> None:
    """The optimizer's name, and GaLore's settings with it."""
    name = keys.take(key)
    if name is None:
        keys.assumed.append(f"optimizer {default}, transformers' default with torch 2.8 or newer")
        table["optimizer"] = dict(OPTIMIZERS[default])
        return
    if not isinstance(name, str):
        keys.refuse(key, f"{show(name)} is not text")
    word = name.removesuffix("_layerwise")
    known = OPTIMIZERS.get(name) or GALORE.get(word)
    if known is None:
        names = [*OPTIMIZERS, *GALORE]
        keys.refuse(key, f"the optimizer {show(name)} is not modelled", suggest(name, names))
    paged = ["paged"] if known.get("is_paged") else []
    implementation = [known["implementation"]] if "implementation" in known else []
    whole = ", embeddings' moments in fp32 as the Trainer has them" if known.get("whole_embeddings") else ""
    keys.use(key, " ".join(["optimizer", known["kind"], *paged, *implementation]) + whole)
    table["optimizer"] = dict(known)
    if word in GALORE:
        if table.get("method", {}).get("kind", "full") != "full":
            keys.refuse(key, f"{show(name)} beside an adapter is not modelled", "GaLore trains the whole model")
        table["method"] = {"kind": "galore"}
        if name != word:
            set_path(table, "step.per_layer_updates", True)
        _take_galore(keys, table)


def _take_galore(keys: Keys, table: Table) -> None:
    arguments = keys.take("optim_args")
    if arguments is not None:
        if not isinstance(arguments, str):
            keys.refuse("optim_args", f"{show(arguments)} is not text such as 'rank=128,update_proj_gap=200'")
        settings = dict(part.strip().partition("=")[::2] for part in arguments.split(",") if part.strip())
        for word, path in (("rank", "method.rank"), ("update_proj_gap", "method.refresh_interval")):
            if word in settings:
                if not re.fullmatch(r"[1-9]\d{0,8}", settings[word], re.ASCII):
                    keys.refuse("optim_args", f"{word}={show(settings[word])} is not a whole number above zero")
                set_path(table, path, int(settings[word]))
        keys.use("optim_args", ", ".join(f"{word} {settings[word]}" for word in settings))
    take_projected(keys, "optim_target_modules", table)


def take_projected(keys: Keys, key: str, table: Table) -> None:
    """GaLore's targets: any layer whose path has one of the words in it is projected: "attn" stands for four."""
    words = [word.removeprefix(".*").removesuffix(".*") for word in keys.names(key)]
    if not words:
        return
    if not all(re.fullmatch(r"[\w.-]+", word, re.ASCII) for word in words):
        keys.bar(key, ", ".join(words), "which modules a pattern matches is not read yet; name them")
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
    set_path(table, "method.target_modules", names)
    keys.use(key, f"method.target_modules {', '.join(names)}")
