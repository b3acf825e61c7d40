"""What a model's name on the Hugging Face hub says of its shapes, and of how its weights are stored.

A name is read as words. Some of them tell versions of a model apart that have the same tensors: how it was tuned, whose
copy it is, the type of its weights, a date. Without these words, two names of the same shapes are equal. Every other
word stands for shapes of its own: Llama-3.1 is not Llama-3, and Qwen2.5-Math-7B is not Qwen2.5-7B.
"""

import re
from typing import Any, Final

from memplanner.frozen import Frozen

_LONGEST: Final = 256
"""Characters of a name that is read."""
_NAME: Final = re.compile(r"(?:([\w.-]+)/)?([\w.-]+)", re.ASCII)
_SAME_TENSORS: Final = frozenset(
    ("instruct", "chat", "it", "pt", "hf", "thinking", "reasoning", "bf16", "fp16", "fp32", "bfloat16", "float16")
)
"""Words for tuning, the library and the type of whole weights."""
_BASE: Final = "base"
"""A word for no tuning beside a number of parameters (Qwen3-8B-Base), and for a size without one (bert-base)."""
_PARAMETERS: Final = re.compile(r"[ae]?\d+(?:\.\d+)?[bm]|\d+x\d+(?:\.\d+)?b", re.ASCII)
_DATE: Final = re.compile(r"2[3-9](?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])", re.ASCII)
"""Year and month (2507), month and day (0324) or month and year (1124)."""
_STORED: Final = re.compile(
    r"bnb|nf4|gptq|awq|aqlm|hqq|eetq|quip|vptq|gguf|ggml|exl\d|mlx|onnx|openvino|torchao|quark|spinquant|bitnet|qat"
    r"|auto-?round|autoround|quantized|\d(?:\.\d+)?bits?|int\d|uint\d|fp[468]|mxfp\d|nvfp\d|w\d+a\d+|i?q\d\w*|f8",
    re.ASCII,
)
"""Words for a format of weights that are not whole, with which the name's last part begins."""
_UNSLOTHS_4BIT: Final[dict[str, Any]] = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
"""Assumed of unsloth's copies whose names end in -bnb-4bit: no config.json of theirs was read. It is how unsloth's own
FastLanguageModel quantises a model that it loads on a card with bf16 (unsloth/models/llama.py, BitsAndBytesConfig).
"""
_8BIT: Final[dict[str, Any]] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
"""Assumed of anyone's copies whose names end in -bnb-8bit, with bitsandbytes' defaults for all else."""
_OTHER_TENSORS: Final = (("unsloth", "phi"),)
"""Owners whose copies of these models are not as they were published: unsloth's Phi are in LLaMA's form, with other
linear layers.
"""


class HubName(Frozen):
    """A name as it is read.

    shapes: what names of the same shapes have in common, the first of them to be preferred. stored: the words for a
    format of weights that are not whole, "" for others. quantization_config: what is assumed of that format, for the
    name to be answered for; None where nothing is.
    """

    shapes: tuple[str, ...]
    stored: str = ""
    quantization_config: dict[str, Any] | None = None


def read_name(name: str) -> HubName | None:
    """The name of a model; None of a text that cannot be one, or of a copy that has not the shapes its name says."""
    matched = _NAME.fullmatch(name) if len(name) <= _LONGEST else None
    if matched is None or matched[2].strip("._-") == "":
        return None
    owner = (matched[1] or "").casefold()
    words = [word for word in re.split(r"[-_]+", matched[2].casefold()) if word]
    if any(owner == whose and words[0].startswith(model) for whose, model in _OTHER_TENSORS):
        return None
    cut = next((i for i, word in enumerate(words[1:], 1) if _STORED.fullmatch(word)), len(words))
    whole, tail = words[:cut], words[cut:]
    is_dynamic = bool(tail) and whole[-1] == "unsloth"  # which layers stay whole is in the config.json alone
    if is_dynamic:
        whole, tail = whole[:-1], ["unsloth", *tail]
    config = None
    if tail == ["bnb", "4bit"] and owner == "unsloth":
        config = _UNSLOTHS_4BIT
    elif tail == ["bnb", "8bit"]:
        config = _8BIT
    return HubName(shapes=_shapes(whole), stored="-".join(tail), quantization_config=config)


def _shapes(words: list[str]) -> tuple[str, ...]:
    has_size = any(map(_PARAMETERS.fullmatch, words))
    kept = words[:1] + [word for word in words[1:] if word not in _SAME_TENSORS and not (word == _BASE and has_size)]
    undated = kept[:1] + [word for word in kept[1:] if not _DATE.fullmatch(word)]
    return tuple(dict.fromkeys(("".join(kept), "".join(undated))))
