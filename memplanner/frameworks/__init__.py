"""Training configs that people have already, read as plans: Axolotl, LLaMA-Factory, transformers with peft.

Every key of a file is accounted for: nothing is left out silently.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memplanner.errors import Problem, UserError
from memplanner.files.parse import Table, read_text
from memplanner.frameworks import axolotl, llama_factory, peft_adapter, training_arguments
from memplanner.frameworks.config_file import line_of, read_config
from memplanner.frameworks.keys import Keys

__all__ = ["Foreign", "read_framework"]


_DECIDE: Final = {
    "precision": ("bf16", "fp16"),
    "master_weights": ("bf16", "fp16"),
    "quantization": ("load_in_4bit", "load_in_8bit", "quantization_bit"),
    "method": ("adapter", "finetuning_type", "peft_type", "use_dora"),
    "method.target_modules": ("lora_target_modules", "lora_target_linear", "lora_target", "target_modules"),
    "optimizer": ("optimizer", "optim"),
    "step.attention": ("attn_implementation", "flash_attention", "flash_attn", "sdp_attention"),
    "step.checkpointing": ("gradient_checkpointing", "disable_gradient_checkpointing"),
    "step.loss": ("use_liger_kernel", "enable_liger_kernel", "liger_fused_linear_cross_entropy"),
}
"""Keys that a setting may come from whatever they say: switched off, they name no setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A config as a plan's raw table, and what became of its keys.

    used: key → the setting it came to. assumed: what the config does not say and was taken for it. not_modelled: what
    bears on memory all the same. not_understood: keys that nobody here knows. irrelevant: keys without bearing.
    files: key → the file that has it.
    """

    framework: str
    table: Table
    used: Mapping[str, str]
    assumed: tuple[str, ...]
    not_modelled: tuple[str, ...]
    not_understood: tuple[str, ...]
    irrelevant: tuple[str, ...]
    files: Mapping[str, Path]

    def place(self, setting: str) -> tuple[Path, int] | None:
        """The file and line (from 1) of the key that a plan's setting, such as method.rank, came from."""
        named = [key for key, became in self.used.items() if became.partition(" ")[0] == setting]
        for key in (*named, *_DECIDE.get(setting, ())):
            if key in self.files:
                return self.files[key], line_of(read_text(self.files[key]), key)
        return None


def read_framework(paths: Sequence[Path], model: str = "") -> Foreign:
    """The plan that a config comes to, or transformers' TrainingArguments and peft's adapter_config.json together.

    model: the model, where the plan names one itself. UserError where a file is none of these, or asks for what cannot
    be a plan, and where nobody names a model.
    """
    found: dict[str, Keys] = {}
    files: dict[str, Path] = {}
    for path in paths:
        config = read_config(path)
        name = _framework_of(config, path)
        if name in found:
            raise UserError(Problem(where=str(path), key="", message=f"is a second config of {name}"))
        found[name] = Keys(config, str(path))
        files |= dict.fromkeys(config, path)
    if len(found) > 1 and set(found) != {training_arguments.NAME, peft_adapter.NAME}:
        raise UserError(
            Problem(
                where=" and ".join(map(str, paths)),
                key="",
                message=f"configs of {' and '.join(found)} do not belong together",
                hint="TrainingArguments and a peft adapter do",
            )
        )
    table: Table = {}
    if adapter := found.get(peft_adapter.NAME):
        table = peft_adapter.read(adapter)
        if training_arguments.NAME not in found:
            adapter.assumed.append("memplanner's defaults for all but model and method: a peft adapter does not say")
    if arguments := found.get(training_arguments.NAME):
        table = training_arguments.read(arguments, table | ({"model": model} if model else {}))
    if keys := found.get(axolotl.NAME):
        table = axolotl.read(keys)
    if keys := found.get(llama_factory.NAME):
        table = llama_factory.read(keys)
    if not model and "model" not in table:
        hint = "MODEL on the command line, or `model = ` in the plan"
        raise UserError(Problem(where=" and ".join(map(str, paths)), key="", message="names no model", hint=hint))
    return _accounted(" and ".join(sorted(found, reverse=True)), table, tuple(found.values()), files)


def is_config(table: Table) -> bool:
    """Whether a file's table is another framework's config."""
    return _named(table) is not None


def _framework_of(config: Table, path: Path) -> str:
    name = _named(config)
    if name is None:
        known = (
            "Axolotl (base_model), LLaMA-Factory (finetuning_type), TrainingArguments (output_dir), peft (peft_type)"
        )
        raise UserError(Problem(where=str(path), key="", message="is no config that is known", hint=f"known: {known}"))
    return name


def _named(config: Table) -> str | None:
    """The framework whose keys they are."""
    if "peft_type" in config:
        return peft_adapter.NAME
    if config.get("base_model") is not None:
        return axolotl.NAME
    if config.keys() & {"stage", "finetuning_type", "cutoff_len", "template"}:
        return llama_factory.NAME
    if config.keys() & {"per_device_train_batch_size", "output_dir", "optim", "gradient_checkpointing", "bf16", "fp16"}:
        return training_arguments.NAME
    return None


def _accounted(framework: str, table: Table, configs: tuple[Keys, ...], files: Mapping[str, Path]) -> Foreign:
    return Foreign(
        framework=framework,
        table=table,
        used={key: became for keys in configs for key, became in keys.used.items() if key not in keys.not_modelled},
        assumed=tuple(text for keys in configs for text in keys.assumed),
        not_modelled=tuple(text for keys in configs for text in keys.not_modelled.values()),
        not_understood=tuple(key for keys in configs for key in keys.not_understood),
        irrelevant=tuple(key for keys in configs for key in keys.irrelevant),
        files=files,
    )
