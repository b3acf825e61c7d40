"""config.json, as its publisher wrote it, to the one family that models it; every problem in one line."""

from collections.abc import Callable
from typing import Any

from memplanner.components.architectures.bert import Bert, BertConfig
from memplanner.components.architectures.gpt2 import Gpt2, Gpt2Config
from memplanner.components.architectures.llama import Llama, LlamaConfig
from memplanner.components.context import Context
from memplanner.errors import Problem, UserError, nearest
from memplanner.frozen import Frozen
from memplanner.tape.ops import KNOWN_ACTIVATIONS

MAX_SIZE = 1 << 24
"""No published model has a dimension above this."""
MAX_LAYERS = 512
"""Published models have up to 126 (Llama 3.1 405B); each layer costs a prediction about a millisecond."""


class Fields:
    """The config's fields, read with their types and ranges checked; problems are collected."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config, self.where = config, where
        self.problems: list[Problem] = []

    def problem(self, key: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(where=self.where, key=key, message=message, hint=hint))

    def size(self, *keys: str, default: int | None = None, limit: int = MAX_SIZE) -> int:
        """The first of the keys that is there, as a whole number from 1 to `limit`."""
        for key in keys:
            value = self.config.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self.problem(key, f"{_show(value)} is not a whole number")
            elif not 1 <= value <= limit:
                self.problem(key, f"{_show(value)} is not between 1 and {limit}")
            else:
                return value
            return 1
        if default is None:
            self.problem(keys[0], "missing")
            return 1
        return default

    def flag(self, key: str, default: bool) -> bool:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(key, f"{_show(value)} is not true or false")
            return default
        return value

    def share(self, key: str, default: float) -> float:
        value = self.config.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            self.problem(key, f"{_show(value)} is not a number from 0 to below 1")
            return default
        return float(value)

    def activation(self, key: str, default: str) -> str:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or value not in KNOWN_ACTIVATIONS:
            known = ", ".join(sorted(KNOWN_ACTIVATIONS))
            self.problem(key, f"{_show(value)} is not an activation that is modelled", f"modelled: {known}")
            return default
        return value

    def divides(self, key: str, part: int, whole: int, whole_key: str) -> None:
        if whole % part:
            self.problem(key, f"{part} does not divide {whole_key} {whole}")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _llama(f: Fields, model_type: str) -> LlamaConfig:
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", default=heads)
    if f.config.get("head_dim") is None and not f.problems:
        f.divides("num_attention_heads", heads, hidden, "hidden_size")
    head_dim = f.size("head_dim", default=max(1, hidden // heads))
    f.divides("num_key_value_heads", kv_heads, heads, "num_attention_heads")
    if head_dim % 2 and not f.problems:
        f.problem("head_dim", f"{head_dim} is odd; rotary embeddings need an even one")
    qwen2 = model_type == "qwen2"
    bias = True if qwen2 else f.flag("attention_bias", False)
    return LlamaConfig(
        hidden=hidden,
        intermediate=f.size("intermediate_size"),
        num_layers=f.size("num_hidden_layers", limit=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=f.size("vocab_size"),
        tied=f.flag("tie_word_embeddings", False),
        attention_bias=bias,
        output_bias=bias and not qwen2,
        mlp_bias=f.flag("mlp_bias", False),
        qk_norm=model_type == "qwen3",
        attention_dropout=f.share("attention_dropout", 0.0),
        activation=f.activation("hidden_act", "silu"),
    )


def _gpt2(f: Fields, model_type: str) -> Gpt2Config:
    hidden, heads = f.size("n_embd", "hidden_size"), f.size("n_head", "num_attention_heads")
    f.divides("n_head", heads, hidden, "n_embd")
    return Gpt2Config(
        hidden=hidden,
        intermediate=f.size("n_inner", default=4 * hidden),
        num_layers=f.size("n_layer", "num_hidden_layers", limit=MAX_LAYERS),
        num_heads=heads,
        vocab=f.size("vocab_size"),
        positions=f.size("n_positions", "max_position_embeddings", default=1024),
        tied=f.flag("tie_word_embeddings", True),
        activation=f.activation("activation_function", "gelu_new"),
        attention_dropout=f.share("attn_pdrop", 0.1),
        residual_dropout=f.share("resid_pdrop", 0.1),
        embedding_dropout=f.share("embd_pdrop", 0.1),
    )


def _bert(f: Fields, model_type: str) -> BertConfig:
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    f.divides("num_attention_heads", heads, hidden, "hidden_size")
    dropout = f.share("hidden_dropout_prob", 0.1)
    labels = f.config.get("id2label")
    return BertConfig(
        hidden=hidden,
        intermediate=f.size("intermediate_size"),
        num_layers=f.size("num_hidden_layers", limit=MAX_LAYERS),
        num_heads=heads,
        vocab=f.size("vocab_size"),
        positions=f.size("max_position_embeddings", default=512),
        types=f.size("type_vocab_size", default=2),
        num_labels=f.size("num_labels", default=len(labels) if isinstance(labels, dict) and labels else 2),
        pooler=model_type == "bert",
        activation=f.activation("hidden_act", "gelu"),
        hidden_dropout=dropout,
        attention_dropout=f.share("attention_probs_dropout_prob", 0.1),
        classifier_dropout=f.share("classifier_dropout", dropout),
    )


class Family(Frozen, kw_only=False):
    """A family of architectures: how its config is read and its forward pass written, the projections that methods
    take by default (peft's mapping, and every linear layer of the blocks), and the longest sequence, where positions
    are a table.
    """

    name: str
    read: Callable[[Fields, str], Any]
    model: Callable[[Any, Context], Any]
    lora_targets: tuple[str, ...]
    block_targets: tuple[str, ...]
    classifier: bool = False

    def longest_sequence(self, config: Any) -> int | None:
        """Tokens that the position table has room for; None where positions are rotary. RoBERTa's first two rows are
        for padding.
        """
        positions: int | None = getattr(config, "positions", None)
        if positions is not None and self.classifier and not config.pooler:
            return positions - 2
        return positions

    def heads(self, config: Any) -> tuple[int, int]:
        """Query heads per key/value head, and the width of a head."""
        kv_heads = getattr(config, "num_kv_heads", config.num_heads)
        return config.num_heads // kv_heads, getattr(config, "head_dim", config.hidden // config.num_heads)


_LLAMA = Family(
    "llama",
    _llama,
    Llama,
    ("q_proj", "v_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
_GPT2 = Family("gpt2", _gpt2, Gpt2, ("c_attn",), ("c_attn", "c_proj", "c_fc"))
_BERT = Family("bert", _bert, Bert, ("query", "value"), ("query", "key", "value", "dense"), classifier=True)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": _GPT2,
    "bert": _BERT,
    "roberta": _BERT,
}
"""By the config's model_type."""


def read_config(config: dict[str, Any], where: str) -> tuple[Family, Any]:
    """The family and its settings; UserError names every field that is missing or wrong.

    where: the file the config came from, for messages.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        message = "missing" if model_type is None else f"{_show(model_type)} is not an architecture that is modelled"
        hint = nearest(model_type, FAMILIES) if isinstance(model_type, str) else ""
        known = f"modelled: {', '.join(sorted(FAMILIES))}"
        raise UserError(Problem(where=where, key="model_type", message=message, hint=f"{hint} {known}".strip()))
    family = FAMILIES[model_type]
    fields = Fields(config, where)
    settings = family.read(fields, model_type)
    if fields.problems:
        raise UserError(*fields.problems)
    return family, settings
