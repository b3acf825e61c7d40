"""Records a type of model's forward pass: builds small models of several sizes, and finds what they have in common."""

import unittest.mock
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from memplanner.components.architectures.recorded.program import Forward
from memplanner.harness.builders.factories import factory_of
from memplanner.harness.errors import NotBuildableError
from memplanner.harness.forward.operations import WORD, record_forward
from memplanner.harness.forward.parts import DEPTHS, PART_SIZES, in_recording, rotary, symbol_of, tokens_within
from memplanner.harness.forward.program import Recording, program_of

SIZES: Final[Mapping[str, tuple[int, int, int]]] = {
    "hidden_size": (12 * 8 * 29, 30 * 8 * 31, 28 * 8 * 37),
    "intermediate_size": (8 * 41, 8 * 43, 8 * 47),
    "num_attention_heads": (12, 30, 28),
    "num_key_value_heads": (3, 5, 7),
    "head_dim": (32 * 17, 32 * 19, 32 * 23),
    "vocab_size": (8 * 313, 8 * 317, 8 * 331),
    "max_position_embeddings": (8 * 337, 8 * 347, 8 * 349),
    "moe_intermediate_size": (8 * 53, 8 * 59, 8 * 61),
    "shared_expert_intermediate_size": (8 * 67, 8 * 71, 8 * 73),
    "num_local_experts": (8 * 11, 8 * 13, 8 * 17),
    "num_experts": (8 * 11, 8 * 13, 8 * 17),
    "n_routed_experts": (8 * 11, 8 * 13, 8 * 17),
    "num_experts_per_tok": (6, 7, 9),
    "q_lora_rank": (8 * 79, 8 * 83, 8 * 89),
    "kv_lora_rank": (8 * 97, 8 * 101, 8 * 103),
    "qk_nope_head_dim": (8 * 107, 8 * 109, 8 * 113),
    "qk_rope_head_dim": (8 * 127, 8 * 131, 8 * 137),
    "v_head_dim": (8 * 139, 8 * 149, 8 * 151),
}
"""The settings that sizes are made of, and their values in the recordings, which share few factors."""
BATCH: Final = (2, 3, 5)
SEQ: Final = (2 * 157, 2 * 163, 2 * 167)


class Source:
    """A config.json that is to be recorded, and transformers' reading of it."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.model_type = str(fields["model_type"])
        self.config = self.made({})
        self.text = self.config.get_text_config()
        self.nested = self.text is not self.config
        factory = factory_of(self.config, "causal-lm", fields.get("architectures") or ())
        if factory is None:
            raise NotBuildableError(f"transformers has no language model of type {self.model_type}")
        self.factory = factory

    def made(self, text: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]] | None = None, **around: Any) -> Any:
        """transformers' config with other settings of the language model, of its other parts and of the whole."""
        import transformers

        fields = self.changed(text, parts or {}, around)
        return transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)

    def changed(
        self, text: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]], around: Mapping[str, Any]
    ) -> dict[str, Any]:
        """config.json with other settings of the language model, of its other parts and of the whole."""
        fields = {key: value for key, value in self.fields.items() if key not in _NO_FIELDS}
        if text and getattr(self, "nested", False):
            nested = fields.get("text_config")
            if not isinstance(nested, dict):  # older files have the language model's settings beside all others
                known = {*self.text.to_dict(), "rope_scaling", "rope_theta"} - {"model_type"}
                nested = {key: value for key, value in fields.items() if key in known and key not in _NO_FIELDS}
            older = ("rope_scaling",) if "rope_parameters" in text else ()
            fields["text_config"] = {**{key: value for key, value in nested.items() if key not in older}, **text}
        else:
            fields |= text
        for key, settings in parts.items():
            fields[key] = {**(fields.get(key) or {}), **settings}
        return {"model_type": self.model_type, **fields, **around}

    @property
    def refuses_sdpa(self) -> bool:
        """Whether transformers runs eager attention where "sdpa" is asked for."""
        return not self.factory._model_mapping[type(self.config)]._supports_sdpa


_NO_FIELDS: Final = (
    "memplanner",
    "model_type",
    "architectures",
    "auto_map",
    "quantization_config",
    "dtype",
    "torch_dtype",
)


def record_type(source: Source, *, num_layers: int, attention: str = WORD) -> tuple[Forward, list[str]]:
    """The program of a model, and the kind of each of its blocks.

    attention: "eager" for transformers' own code, operation by operation; else attention is one operation.
    NotBuildableError where the forward pass cannot be recorded.
    """
    import transformers

    last: Exception | None = None
    for has_own_heads in (True, False):
        if has_own_heads and not isinstance(getattr(source.text, "head_dim", None), int):
            continue
        how: dict[str, Any] = {"has_own_heads": has_own_heads, "attention": attention, "num_layers": num_layers}
        try:
            recordings = [_record(source, place, **how) for place in range(len(BATCH))]
            lowered = _record(source, 0, **how, dtype=torch.float32)
        except NotBuildableError:
            raise
        except Exception as error:  # of code that takes a head's width for hidden/heads
            last = last or error
            continue
        return program_of(recordings, lowered, transformers=transformers.__version__)
    text = " ".join(str(last).split())[:200]
    raise NotBuildableError(f"it does not run with sizes of its own: {type(last).__name__}: {text}")


def _record(
    source: Source,
    place: int,
    *,
    has_own_heads: bool,
    attention: str,
    num_layers: int,
    dtype: torch.dtype = torch.bfloat16,
) -> Recording:
    text = source.text
    sizes = {name: values[place] for name, values in SIZES.items() if isinstance(getattr(text, name, None), int)}
    around: dict[str, Any] = {}
    if source.nested:
        around |= rotary(text, SIZES["head_dim"][place])
    if "qk_rope_head_dim" in sizes:  # latent attention has keys for every head, and transformers makes head_dim of it
        sizes = {name: size for name, size in sizes.items() if name not in ("head_dim", "num_key_value_heads")}
        around["num_key_value_heads"] = sizes["num_attention_heads"]
    elif not has_own_heads:
        sizes["hidden_size"] = sizes["num_attention_heads"] * SIZES["head_dim"][place]
        sizes.pop("head_dim", None)
    lists = truncated_lists(text, num_layers)
    padding = {} if getattr(text, "pad_token_id", None) is None else {"pad_token_id": 0}
    own = {text.attribute_map.get(name, name): value for name, value in sizes.items()}
    layers = {text.attribute_map.get("num_hidden_layers", "num_hidden_layers"): num_layers}
    parts = in_recording(source.config, place) if source.nested else {}
    tokens = tokens_within(source.config) if source.nested else {}
    config = source.made({**own, **around, **lists, **padding, **layers}, parts, **tokens)
    model = _built(source, config, attention, dtype)
    if not has_own_heads and "qk_rope_head_dim" not in sizes:
        sizes["head_dim"] = SIZES["head_dim"][place]
    settings = {"batch": BATCH[place], "seq": SEQ[place], **sizes}
    if "num_key_value_heads" in sizes:
        settings["num_key_value_groups"] = sizes["num_attention_heads"] // sizes["num_key_value_heads"]
    mode = model[1]
    entries = record_forward(model[0], BATCH[place], SEQ[place], mode, applies_autocast=dtype is torch.float32)
    numbers = {symbol_of(key, n): v for key, own in parts.items() for n, v in own.items() if n in PART_SIZES}
    depths = {symbol_of(key, n): v for key, own in parts.items() for n, v in own.items() if n in DEPTHS}
    return Recording(settings=settings, parts=numbers, depths=depths, entries=entries, model=model[0])


def truncated_lists(text: Any, num_layers: int) -> dict[str, Any]:
    """The settings that name something for every layer, of fewer layers."""
    return {
        key: value[:num_layers]
        for key, value in text.to_dict().items()
        if isinstance(value, list) and len(value) == text.num_hidden_layers and num_layers < len(value)
    }


def _built(source: Source, config: Any, attention: str, dtype: torch.dtype) -> tuple[nn.Module, FakeTensorMode]:
    import transformers

    config.use_cache = False
    transformers.AttentionInterface._global_mapping.setdefault(WORD, lambda *_, **__: None)
    config._attn_implementation = attention
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_values = unittest.mock.patch.object(transformers.PreTrainedModel, "initialize_weights")
    with mode, without_values, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return source.factory.from_config(config, dtype=dtype).train(), mode
