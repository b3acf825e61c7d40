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


PART_SIZES: Final = ("hidden_size", "embed_dim", "intermediate_size", "out_hidden_size")
"""The settings of other parts, such as a tower for images, that sizes of their weights are made of."""
DEPTHS: Final = ("depth", "num_hidden_layers")
"""The names of the setting that says how many blocks such a part has."""
_PART_PRIMES: Final = ((41, 43, 47), (53, 59, 61), (67, 71, 73), (79, 83, 89))
_PART_UNIT: Final = 192
"""What the number of heads of every part divides."""
_FEWEST_BLOCKS: Final = 5
"""Of the first of the other parts; each has two more than the one before."""


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

    @property
    def parts(self) -> dict[str, Any]:
        """transformers' configs of what there is beside the language model, by their keys."""
        keys = self.config.sub_configs if self.nested else ()
        found = {key: getattr(self.config, key, None) for key in keys if key != "text_config"}
        return {key: config for key, config in found.items() if config is not None}

    def made(
        self, text: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]] | None = None, **around: Any
    ) -> Any:
        """transformers' config with other settings of the language model, and of its other parts."""
        import transformers

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
        for key, settings in (parts or {}).items():
            fields[key] = {**(fields.get(key) or {}), **settings}
        return transformers.AutoConfig.for_model(self.model_type, **fields | around)

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
    rope = getattr(text, "rope_parameters", None) or {}
    if source.nested and "rope_type" in rope:  # frequencies of time, height and width, where there are such
        section = [share * SIZES["head_dim"][place] // 32 for share in (6, 5, 5)]
        around["rope_parameters"] = {**rope, "mrope_section": section}
    if "qk_rope_head_dim" in sizes:  # latent attention has keys for every head, and transformers makes head_dim of it
        sizes = {name: size for name, size in sizes.items() if name not in ("head_dim", "num_key_value_heads")}
        around["num_key_value_heads"] = sizes["num_attention_heads"]
    elif not has_own_heads:
        sizes["hidden_size"] = sizes["num_attention_heads"] * SIZES["head_dim"][place]
        sizes.pop("head_dim", None)
    lists = {
        key: value[:num_layers]
        for key, value in text.to_dict().items()
        if isinstance(value, list) and len(value) == text.num_hidden_layers and num_layers < len(value)
    }
    padding = {} if getattr(text, "pad_token_id", None) is None else {"pad_token_id": 0}
    own = {text.attribute_map.get(name, name): value for name, value in sizes.items()}
    layers = {text.attribute_map.get("num_hidden_layers", "num_hidden_layers"): num_layers}
    parts = _parts(source, place)
    if source.nested:
        padding |= {key: 1 for key, value in source.config.to_dict().items() if _is_token(key, value)}
    config = source.made(
        {**own, **around, **lists, **({} if "pad_token_id" not in padding else {"pad_token_id": 0}), **layers},
        {key: settings for key, (settings, _) in parts.items()},
        **(padding if source.nested else {}),
    )
    model = _built(source, config, attention, dtype)
    if not has_own_heads and "qk_rope_head_dim" not in sizes:
        sizes["head_dim"] = SIZES["head_dim"][place]
    settings = {"batch": BATCH[place], "seq": SEQ[place], **sizes}
    if "num_key_value_heads" in sizes:
        settings["num_key_value_groups"] = sizes["num_attention_heads"] // sizes["num_key_value_heads"]
    mode = model[1]
    entries = record_forward(model[0], BATCH[place], SEQ[place], mode, applies_autocast=dtype is torch.float32)
    numbers = {f"{key.removesuffix('_config')}_{n}": v for key, (own, _) in parts.items() for n, v in own.items() if n in PART_SIZES}
    depths = {f"{key.removesuffix('_config')}_depth": depth for key, (_, depth) in parts.items()}
    return Recording(settings=settings, parts=numbers, depths=depths, entries=entries, model=model[0])


def _is_token(key: str, value: Any) -> bool:
    """Whether a setting is the number of a token, which has to be one of the vocabulary."""
    return isinstance(value, int) and key.endswith(("_token_id", "_token_index"))


def _parts(source: Source, place: int) -> dict[str, tuple[dict[str, Any], int]]:
    """The settings of the other parts in a recording, and how many blocks each has."""
    found = {}
    for number, (key, config) in enumerate(source.parts.items()):
        depth, settings = _FEWEST_BLOCKS + 2 * number, config.to_dict()
        name = next((name for name in DEPTHS if name in settings), None)
        if name is None:
            raise NotBuildableError(f"{key} does not say how many blocks there are")
        own: dict[str, Any] = {"model_type": config.model_type, name: depth}
        for symbol, primes in zip(PART_SIZES, _PART_PRIMES, strict=False):
            if isinstance(settings.get(symbol), int):
                own[symbol] = _PART_UNIT * primes[place]
        for other, value in settings.items():
            if isinstance(value, list) and len(value) == settings[name]:
                own[other] = value[:depth]
        found[key] = own, depth
    return found


def _built(source: Source, config: Any, attention: str, dtype: torch.dtype) -> tuple[nn.Module, FakeTensorMode]:
    import transformers

    config.use_cache = False
    transformers.AttentionInterface._global_mapping.setdefault(WORD, lambda *_, **__: None)
    config._attn_implementation = attention
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_values = unittest.mock.patch.object(transformers.PreTrainedModel, "initialize_weights", lambda _: None)
    with mode, without_values, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return source.factory.from_config(config, dtype=dtype).train(), mode
