"""The format of weights that were saved quantised, as a config.json's quantization_config says it (transformers'
utils/quantization_config.py). That of a checkpoint goes before any other that is asked for (quantizers/auto.py,
merge_quantization_configs).
"""

from typing import Any, Final

from memplanner.components.architectures.family import ConfigReader, show_value
from memplanner.errors import nearest

_KEY: Final = "quantization_config"
_TYPES: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_HINT: Final = "the config.json of the model before it was quantised, and --quantization, are read"
_AS_BITSANDBYTES_HAS_IT: Final[dict[str, tuple[Any, ...]]] = {
    "bnb_4bit_quant_type": ("nf4",),
    "bnb_4bit_quant_storage": ("uint8", None),
    "llm_int8_has_fp16_weight": (False, None),
    "llm_int8_enable_fp32_cpu_offload": (False, None),
}
"""The values that are modelled, the first of them in 4 bits only."""
_HEADS: Final = ("lm_head", "score", "classifier", "qa_outputs", "cls", "multi_modal_projector", "merger")
"""What is left out of quantisation, or is not there."""


def saved_format(fields: ConfigReader) -> tuple[str, str]:
    """The plan's word for the format, and the type of its products ("" where the format has none); both "" where the
    weights are not quantised.
    """
    saved = fields.config.get(_KEY)
    if saved is None or saved == {}:
        return "", ""
    if not isinstance(saved, dict):
        fields.problem(_KEY, f"{show_value(saved)} is not an object")
        return "", ""
    method, bits = saved.get("quant_method"), [n for n in (4, 8) if saved.get(f"load_in_{n}bit") is True]
    if len(bits) != 1 or method not in (None, "bitsandbytes"):
        close = nearest(method, ("bitsandbytes",), limit=1) if isinstance(method, str) else ""
        message = f"weights that are saved quantised ({show_value(method)}) are not modelled"
        if method == "bitsandbytes":
            message = "of load_in_4bit and load_in_8bit, exactly one has to be true"
        fields.problem(f"{_KEY}.quant_method", message, f"{close} {_HINT}".strip())
        return "", ""
    for key, modelled in _AS_BITSANDBYTES_HAS_IT.items():
        default = "fp4" if key == "bnb_4bit_quant_type" else None
        if (value := saved.get(key, default)) not in modelled and (bits == [4] or key.startswith("llm")):
            fields.problem(f"{_KEY}.{key}", f"{show_value(value)} is not modelled", f"modelled: {modelled[0]}")
    skipped = saved.get("llm_int8_skip_modules")
    others = [name for name in skipped if name not in _HEADS] if isinstance(skipped, list) else skipped and [skipped]
    if others:
        message = f"{show_value(others[0])} is left as it was, which is not modelled"
        fields.problem(f"{_KEY}.llm_int8_skip_modules", message, _HINT)
    if bits == [8]:
        return "int8", ""
    compute = saved.get("bnb_4bit_compute_dtype", "float32")
    if compute not in _TYPES:
        fields.problem(f"{_KEY}.bnb_4bit_compute_dtype", f"{show_value(compute)} is not one of {', '.join(_TYPES)}")
        return "", ""
    return "nf4-double" if saved.get("bnb_4bit_use_double_quant") is True else "nf4", _TYPES[compute]
