"""The file of a type of model: its programs, and which of them runs for a config.json."""

from collections.abc import Sequence
from typing import Any, Final

import torch

from memplanner.components.architectures.recorded.program import Forward, as_table
from memplanner.components.architectures.recorded.settings import ADJUSTING, EAGER, IN_VOCABULARY, SCHEMA, Recorded
from memplanner.components.methods.targets import ALL_LINEAR
from memplanner.harness.builders.targets import converted_names, default_targets
from memplanner.harness.errors import NotBuildableError
from memplanner.harness.forward.parts import DEPTHS, PART_SIZES, depth_name, parts_of, symbol_of
from memplanner.harness.forward.recordings import SIZES, Source, record_type

_IGNORED: Final = frozenset(
    {
        *("initializer_range", "embedding_initializer_std", "rope_theta", "rope_scaling", "rope_local_base_freq"),
        *("cache_implementation", "max_window_layers", "sliding_window", "attention_chunk_size", "use_cache"),
        *("pretraining_tp", "tie_word_embeddings", "num_hidden_layers", "query_pre_attn_scalar", "model_type"),
        *("original_max_position_embeddings", "initial_context_length", "sliding_window_size", "token_type_ids"),
        *("n_positions", "n_ctx", "routed_scaling_factor", "swiglu_limit", "router_aux_loss_coef", "num_labels"),
        *("_sliding_window_pattern", "max_batch_size", "default_theta", "ignore_keys_at_rope_validation"),
    }
)
"""Settings that no tensor of a training step depends on, or that are accounted for otherwise."""


def table_of(sources: Sequence[Source]) -> dict[str, Any]:
    """The file of a type of model. sources: config.jsons of the type, the first of which has the class's defaults; of a
    model with other parts than a language model, only the others are recorded, if there are any.

    NotBuildableError where none can be recorded.
    """
    import transformers

    first = sources[0]
    if first.nested:
        sources = sources[1:] or sources
        first = _bare(sources[0])
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "model_type": first.model_type,
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "nested": first.nested,
        "lora_targets": default_targets(first.config),
        "converted": converted_names(first.config),
        "names": {
            name: other
            for pair in first.text.attribute_map.items()
            for name, other in (pair, pair[::-1])
            if name in SIZES or name == "num_hidden_layers"
        },
        "derived": {},
        "defaults": {},
        "variants": [],
    }
    keys = _deciding(first)
    table["derived"] = _derived(first, keys)
    known = (
        *SIZES,
        *keys,
        *ADJUSTING,
        "num_hidden_layers",
        "sliding_window",
        "attention_chunk_size",
        "tie_word_embeddings",
    )
    resolved = first.text.to_dict()
    table["defaults"] = {key: _plain(resolved.get(key, getattr(first.text, key, None))) for key in known}
    if first.nested:
        table["defaults"]["tie_word_embeddings"] = bool(getattr(first.config, "tie_word_embeddings", False))
        table |= {"ties_by_text": _ties_by_text(first), "parts": _part_symbols(first)}
        around = _around(first)
        keys += around
        table["defaults"] |= around
    table["defaults"] = {key: value for key, value in table["defaults"].items() if value is not None}
    recorded, failed = Recorded(table), list[NotBuildableError]()
    for source in sources:
        config = source.fields if source is not first else {}
        if recorded.variant(config) is not None:
            continue
        try:
            table["variants"].append({"fields": recorded.fingerprint(config, keys), **_variant(source)})
        except NotBuildableError as error:
            failed.append(error)
    if not table["variants"]:
        raise failed[0]
    if table["converted"] and table["lora_targets"] == (ALL_LINEAR,):
        table["lora_targets"] = [name for name in _linear_names(table) if name not in table["converted"]]
    return table


def _linear_names(table: dict[str, Any]) -> dict[str, None]:
    """The names of linear layers in blocks."""
    blocks = (block for variant in table["variants"] for block in variant[EAGER]["blocks"].values())
    names = (name for block in blocks for name, fields in block["weights"].items() if fields.get("linear"))
    return dict.fromkeys(name.removesuffix(".weight").rpartition(".")[2] for name in names)


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | dict | list | None) else None


def _deciding(source: Source) -> list[str]:
    """The settings that may decide the structure of the forward pass."""
    import transformers

    common = transformers.PreTrainedConfig().to_dict()
    names = {*SIZES, *source.text.attribute_map.values()}
    unset = {key for key in SIZES if key in source.text.to_dict() and getattr(source.text, key) is None} - {"head_dim"}
    return [
        key
        for key, value in source.text.to_dict().items()
        if key not in common
        and (key not in names or key in unset)
        and key not in _IGNORED
        and not key.endswith("_token_id")
        and key not in ADJUSTING
        and not (isinstance(value, list) and (_names_layers(source, value) or not _is_flat(value)))
        and "eps" not in key.split("_")
        and "epsilon" not in key.split("_")
    ]


_DECIDES_NOTHING: Final = frozenset(
    {
        *("hidden_act", "hidden_activation", "initializer_range", "initializer_factor", "vocab_size", "projection_dim"),
        *("rope_parameters", "rope_theta", "window_size", "tokens_per_second", "projector_hidden_act", "dtype"),
        *("fullatt_block_indexes", "image_seq_length", "ignore_index", "tie_word_embeddings", "pixel_shuffle_ratio"),
        *(
            "vision_feature_select_strategy",
            "mm_tokens_per_image",
            "model_type",
            "standardize",
            "max_position_embeddings",
        ),
    }
)
"""Settings of parts that are not run, and of the whole, on which no weight's shape depends."""


def _bare(source: Source) -> Source:
    """A config.json that says of each part no more than its type, so that the classes' defaults are seen."""
    parts = {"text_config": source.text, **parts_of(source.config)}
    return Source({"model_type": source.model_type, **{key: {"model_type": c.model_type} for key, c in parts.items()}})


def _around(source: Source) -> dict[str, Any]:
    """The settings of the whole and of its other parts that decide shapes of weights beside those that sizes are made
    of, by their keys as `Recorded.fingerprint` has them; with the values that the class has by default.
    """
    import transformers

    common = transformers.PreTrainedConfig().to_dict()
    found: dict[str, Any] = {
        ".architectures": [source.factory._model_mapping[type(source.config)].__name__],
        "text_config.model_type": source.text.model_type,
    }
    for key, value in source.config.to_dict().items():
        if key in common or key in _DECIDES_NOTHING or key in source.config.sub_configs:
            continue
        if not key.endswith(("_token_id", "_token_index")):
            found[f".{key}"] = value
    for part, config in parts_of(source.config).items():
        found[f"{part}.model_type"] = config.model_type
        for key, value in config.to_dict().items():
            decides = key not in (*common, *_DECIDES_NOTHING, *PART_SIZES, *DEPTHS) and not key.endswith("_token_id")
            if decides and "dropout" not in key and "eps" not in key.split("_"):
                found[f"{part}.{key}"] = value
    token = getattr(source.config, "image_token_id", None)
    return {**found, IN_VOCABULARY: token} if token is not None else found


def _part_symbols(source: Source) -> dict[str, list[Any]]:
    """The settings of other parts that sizes are made of: the part's key, the names and the default of each."""
    found: dict[str, list[Any]] = {}
    for part, config in parts_of(source.config).items():
        settings = config.to_dict()
        for name in (name for name in PART_SIZES if isinstance(settings.get(name), int)):
            found[symbol_of(part, name)] = [part, [name], settings[name]]
        own = depth_name(part, settings)
        others = [other for other, name in config.attribute_map.items() if name == own]
        found[symbol_of(part, own)] = [part, [own, *others], settings[own]]
    return found


def _ties_by_text(source: Source) -> bool:
    """Whether the language model's setting ties the output projection of the whole, whose own does not say so."""
    key = "tie_word_embeddings"
    text = {"model_type": source.text.model_type, key: True}
    made = Source({"model_type": source.model_type, key: False, "text_config": text}).config
    return bool(made.tie_word_embeddings)


def _is_flat(value: list[Any]) -> bool:
    return all(isinstance(item, int | str) for item in value)


def _names_layers(source: Source, value: Any) -> bool:
    """Whether a setting names a kind for every layer."""
    is_list = isinstance(value, list) and len(value) == source.text.num_hidden_layers and _is_flat(value)
    return is_list and (len({*value}) < len(value) or len(value) == 1)


_FOLLOWING: Final = {
    "head_dim": "hidden_size/num_attention_heads",
    "num_key_value_heads": "num_attention_heads",
    "num_kv_heads": "num_attention_heads",
    "intermediate_size": "4*hidden_size",
    "ffn_hidden_size": "4*hidden_size",
}
"""What a setting is where config.json does not say it, for classes that make it of others."""


def _derived(source: Source, keys: Sequence[str]) -> dict[str, str]:
    """Settings whose default follows from others. keys: of those that decide the structure, where they are another."""
    text = source.text
    found = {}
    own = {text.attribute_map.get(k, k): v for k, v in (("hidden_size", 2784), ("num_attention_heads", 12))}
    try:
        other = Source({"model_type": source.model_type}).made(own).get_text_config()
    except Exception:  # of classes that check more
        return {}
    for key, words in _FOLLOWING.items():
        value = {"head_dim": 232, "num_key_value_heads": 12, "num_kv_heads": 12}.get(key, 4 * 2784)
        if getattr(other, key, None) in (value, None):
            found[key] = words
    return found | {key: "hidden_size" for key in keys if getattr(other, key, None) == 2784}


def _variant(source: Source) -> dict[str, Any]:
    lists = [key for key, value in source.text.to_dict().items() if _names_layers(source, value)]
    words = [
        "/".join(str(source.text.to_dict()[key][i]) for key in lists) for i in range(source.text.num_hidden_layers)
    ]
    covered = max(words.index(word) for word in words) + 2
    num_layers = min(
        source.text.num_hidden_layers, max(6, covered, int(getattr(source.text, "first_k_dense_replace", 0) or 0) + 3)
    )
    refuses = source.refuses_sdpa
    eager, order = record_type(source, num_layers=num_layers, attention=EAGER)
    found: dict[str, Any] = {"refuses_sdpa": refuses, "kinds": _kinds(lists, words, order), EAGER: as_table(eager)}
    try:
        kernels, other = _with_kernels(source, num_layers)
        if other == order:
            found["kernels"] = as_table(kernels)
    except NotBuildableError:
        if not refuses:
            raise
    return found


def _with_kernels(source: Source, num_layers: int) -> tuple[Forward, list[str]]:
    """The program in which attention is one operation: transformers' own or, of a class that does not ask transformers
    for it, the class's calls of scaled_dot_product_attention.
    """
    try:
        return record_type(source, num_layers=num_layers)
    except NotBuildableError:
        return record_type(source, num_layers=num_layers, attention="sdpa")


def _kinds(lists: list[str], words: list[str], order: list[str]) -> dict[str, Any]:
    """How the kinds of blocks follow from the settings that name them, and in what order they come without these."""
    by_word: dict[str, str] = {}
    for word, kind in zip(words, order, strict=False):
        if by_word.setdefault(word, kind) != kind:
            by_word, lists = {}, []
            break
    whole = [by_word[word] for word in words] if by_word else order
    for first in range(min(9, len(whole))):
        for period in range(1, 9):
            rest = whole[first:]
            if len(rest) >= 2 * period and all(rest[i] == rest[i % period] for i in range(len(rest))):
                return {
                    "lists": lists if by_word else [],
                    "words": by_word,
                    "first": "".join(whole[:first]),
                    "period": "".join(rest[:period]),
                }
    return {"lists": lists, "words": by_word, "first": "", "period": ""}
