"""Which modules peft adapts in models of a type: its own defaults, and names that it takes for bare parameters.

Experts and their router were nn.Linear in transformers 4 and are bare parameters in 5, where peft turns the names of
the former into target_parameters (peft/utils/transformers_weight_conversion.py).
"""

from typing import Any

from torch import nn

from memplanner.components.methods.targets import ALL_LINEAR


def default_targets(config: Any) -> tuple[str, ...] | str:
    """target_modules that peft takes where none are named, or every linear layer where it has none.

    config: transformers' of the model.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS

    targets = TARGETS.get(config.model_type, TARGETS.get(config.get_text_config().model_type, (ALL_LINEAR,)))
    return targets if isinstance(targets, str) else tuple(targets)


def converted_names(config: Any) -> tuple[str, ...]:
    """Names among target_modules that peft takes for the experts' and the router's bare parameters."""
    from peft.utils import transformers_weight_conversion as conversion

    if conversion.get_checkpoint_conversion_mapping(config.model_type) is None:
        return ()
    old = conversion._MODEL_TO_CONVERSION_PATTERN.get(config.model_type, "")
    return tuple(conversion._MOE_TARGET_MODULE_MAPPING.get(old, ()))


def linear_names(model: nn.Module) -> tuple[str, ...]:
    """What every linear layer means where nothing else is named: the names that stay names of linear layers."""
    converted = converted_names(model.config)
    if not converted:
        return (ALL_LINEAR,)
    head = model.get_output_embeddings()  # type: ignore[operator]  # a PreTrainedModel's
    names = (name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head)
    return tuple(name for name in dict.fromkeys(names) if name not in converted)
