"""LLaMA and what shares its block: Mistral, Qwen2/2.5, Qwen3, SmolLM2, TinyLlama, DeepSeek-coder.

Modelled implementation: transformers' modeling_llama.py and its siblings. Letters: b batch, s sequence, d hidden,
f intermediate, h heads, g key/value heads, e head dim, v vocabulary.
"""

from typing import NamedTuple

from memplanner.components.architectures.common import head_of, head_weight, label_logits, logits_of
from memplanner.components.architectures.family import (
    MAX_LAYERS,
    MAX_SIZE,
    ConfigReader,
    Family,
    Modules,
    Published,
    modules_of,
)
from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import FP32, INT64, Dtype, Shape
from memplanner.tape import liger, nn, ops
from memplanner.tape.attention import Heads
from memplanner.tape.engine import Param, Tensor


class LlamaConfig(Published):
    """The fields of config.json that decide the tensors. max_positions decides none: rotary angles are computed for any
    position, and longer sequences are only remarked on.
    """

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    attention_dropout: float = 0.0
    activation: str = "silu"
    max_positions: int = MAX_SIZE
    token_bias: bool = True
    """Whether the head that labels tokens has a bias."""
    sliding_window: int | None = None
    """Tokens that a layer of "sliding_attention" sees; None where there is none."""
    layer_types: tuple[str, ...] = ()
    """The kind of every layer; empty where all are "full_attention"."""
    full_mask: bool = True
    """Whether the mask of full attention is made: Mistral makes one mask alone, Qwen's models one for each kind."""


SLIDING = "sliding_attention"
_LAYER_TYPES = ("full_attention", SLIDING)


class Shared(NamedTuple):
    """What a block is given: rotary's cos and sin, and the attention mask of its kind, where there is one."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None


class Llama:
    """The model, written in the order of its forward pass."""

    def __init__(self, config: LlamaConfig, ctx: Context) -> None:
        c = config
        self.c, self.ctx, self.vocab = c, ctx, c.vocab
        b, s, d = ctx.batch, ctx.seq, c.hidden
        self.hidden = Shape(batch=b, seq=s, hidden=d)
        self.rows = Shape(batch=b, seq=s, one=1)
        self.inner = Shape(batch=b, seq=s, intermediate=c.intermediate)
        self.norm_weight = Shape(hidden=d)
        self.heads = Heads.of(batch=b, seq=s, num_heads=c.num_heads, num_kv_heads=c.num_kv_heads, head_dim=c.head_dim)
        self.kv = Shape(batch=b, seq=s, kv_heads_dim=c.num_kv_heads * c.head_dim)
        self.head_rows = Shape(batch=b, seq=s, heads=c.num_heads, one=1)
        self.kv_head_rows = Shape(batch=b, seq=s, kv_heads=c.num_kv_heads, one=1)
        self.head_dim = Shape(head_dim=c.head_dim)
        qd, kd, f = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.intermediate
        bias = c.attention_bias
        self.q_proj = LinearSpec("self_attn.q_proj", d, qd, bias, ("heads_dim", "hidden"))
        self.k_proj = LinearSpec("self_attn.k_proj", d, kd, bias, ("kv_heads_dim", "hidden"))
        self.v_proj = LinearSpec("self_attn.v_proj", d, kd, bias, ("kv_heads_dim", "hidden"))
        self.o_proj = LinearSpec("self_attn.o_proj", qd, d, c.output_bias, ("hidden", "heads_dim"))
        self.gate_proj = LinearSpec("mlp.gate_proj", d, f, c.mlp_bias, ("intermediate", "hidden"))
        self.up_proj = LinearSpec("mlp.up_proj", d, f, c.mlp_bias, ("intermediate", "hidden"))
        self.down_proj = LinearSpec("mlp.down_proj", f, d, c.mlp_bias, ("hidden", "intermediate"))
        self.vocab_table = Shape(vocab=c.vocab, hidden=d)
        self.lm_head = head_of(c.vocab, d, tied_to="embed_tokens.weight" if c.tied else None)

    # -- the block, LlamaDecoderLayer ----------------------------------------------------------------------------

    def norm(self, path: str, x: Tensor) -> Tensor:
        return self.rms_norm(path, x, self.norm_weight, self.rows)

    def rms_norm(self, path: str, x: Tensor, features: Shape, rows: Shape) -> Tensor:
        weight = self.ctx.param(f"{path}.weight", features, dtype=self.ctx.norm_dtype)
        if "liger-rms-norm" in self.ctx.kernels:
            return liger.rms_norm(x, weight, rows)
        return nn.rms_norm(x, weight, rows)

    def rotate(self, x: Tensor, half: Shape, shared: Shared) -> Tensor:
        """x * cos + rotate_half(x) * sin."""
        return ops.add(
            ops.mul_constant(x, shared.cos, "times cosine"),
            ops.mul_constant(ops.rotate_half(x, half), shared.sin, "times sine"),
            "rotated",
        )

    def project_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values by heads."""
        ctx, heads = self.ctx, self.heads
        layers = (self.q_proj, heads.tokens), (self.k_proj, self.kv), (self.v_proj, self.kv)
        if ctx.fuses("qkv", self.q_proj, self.k_proj, self.v_proj):
            q, k, v = ctx.method.fused_linears(ctx, x, *layers)
            q = self.split_heads(q, "self_attn.q_norm", heads.q, self.head_rows)
            k = self.split_heads(k, "self_attn.k_norm", heads.kv, self.kv_head_rows)
            v = self.split_heads(v, "", heads.kv, self.kv_head_rows)
            return q, k, v
        q = self.split_heads(ctx.linear(self.q_proj, x, heads.tokens), "self_attn.q_norm", heads.q, self.head_rows)
        k = self.split_heads(ctx.linear(self.k_proj, x, self.kv), "self_attn.k_norm", heads.kv, self.kv_head_rows)
        v = self.split_heads(ctx.linear(self.v_proj, x, self.kv), "", heads.kv, self.kv_head_rows)
        return q, k, v

    def split_heads(self, out: Tensor, norm: str, heads: Shape, rows: Shape) -> Tensor:
        """Split into heads; Qwen3 normalises each head of q and k before turning to (b, h, s, e)."""
        if not (self.c.qk_norm and norm):
            return ops.view_heads(out, heads)
        labels = ("batch", "seq", rows.labels[2], "head_dim")
        by_token = Shape(**dict(zip(labels, (*rows.dims[:3], heads.dims[3]), strict=True)))
        out = self.rms_norm(norm, ops.view(out, by_token), self.head_dim, rows)
        return ops.transpose(out, heads)

    def attention(self, x: Tensor, shared: Shared) -> tuple[Tensor, Tensor | None]:
        heads = self.heads
        q, k, v = self.project_heads(x)
        if "liger-rope" in self.ctx.kernels:
            q, k = liger.rotate(q, k, shared.cos, shared.sin)
        else:
            q_rotated = self.rotate(q, heads.half_q, shared)
            k_rotated = self.rotate(k, heads.half_kv, shared)
            q, k = q_rotated, k_rotated
            del q_rotated, k_rotated
        out, weights = heads.attend(
            self.ctx.kernel(heads, shared.mask, self.c.attention_dropout, q.dtype),
            q,
            k,
            v,
            mask=shared.mask,
            causal=True,
            dropout=self.c.attention_dropout,
            softmax="fp32",
            autocast=self.ctx.attention_type(q.dtype),
        )
        if self.ctx.fuses("o", self.o_proj):
            (out,) = self.ctx.method.fused_linears(self.ctx, out, (self.o_proj, self.hidden))
            return out, weights
        return self.ctx.linear(self.o_proj, out, self.hidden), weights

    def mlp(self, x: Tensor) -> Tensor:
        ctx = self.ctx
        if ctx.fuses("mlp", self.gate_proj, self.up_proj, self.down_proj):
            gate, up, down = (self.gate_proj, self.inner), (self.up_proj, self.inner), (self.down_proj, self.hidden)
            return ctx.method.fused_mlp(ctx, x, gate, up, down)
        if "liger-swiglu" in ctx.kernels:
            gated = liger.silu_mul(ctx.linear(self.gate_proj, x, self.inner), ctx.linear(self.up_proj, x, self.inner))
            return ctx.linear(self.down_proj, gated, self.hidden)
        gated = ops.mul(
            ops.activation(self.c.activation, ctx.linear(self.gate_proj, x, self.inner), autocast=bool(ctx.autocast)),
            ctx.linear(self.up_proj, x, self.inner),
            "gated",
        )
        return ctx.linear(self.down_proj, gated, self.hidden)

    def block(self, i: int, hidden: Tensor, shared: Shared) -> Tensor:
        residual = hidden
        hidden = self.norm("input_layernorm", hidden)
        hidden, _weights = self.attention(hidden, shared)
        hidden = ops.add(residual, hidden, "residual")
        residual = hidden
        hidden = self.norm("post_attention_layernorm", hidden)
        hidden = self.mlp(hidden)
        return ops.add(residual, hidden, "residual")

    # -- the model -----------------------------------------------------------------------------------------------

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """LlamaModel: token ids to the last hidden state."""
        ctx, tape, c = self.ctx, self.ctx.tape, self.c
        inputs_embeds = ctx.embedding("embed_tokens", self.vocab_table, input_ids, self.hidden, "embeddings")
        position_ids = tape.new(Shape(one=1, seq=ctx.seq), INT64, "position ids")
        ctx.require_input_gradients(inputs_embeds)
        for name in ("rotary_emb.inv_freq", "rotary_emb.original_inv_freq"):
            ctx.buffer(name, Shape(half_head_dim=c.head_dim // 2), FP32)
        full_mask = ctx.attention.mask(ctx, inputs_embeds.dtype) if c.full_mask else None
        masks: dict[str, Tensor | None] = dict.fromkeys(c.layer_types, full_mask)
        if SLIDING in masks:
            masks[SLIDING] = ctx.attention.mask(ctx, inputs_embeds.dtype, window=c.sliding_window)
        tables = self.rotary_tables(inputs_embeds.dtype)

        def shared(i: int) -> Shared:
            return Shared(*tables, masks[c.layer_types[i]] if masks else full_mask)

        hidden = ctx.layers("layers", c.num_layers, self.block, [inputs_embeds], shared, c.layer_types)
        hidden = self.norm("norm", hidden)
        del position_ids
        return hidden

    def rotary_tables(self, dtype: Dtype) -> tuple[Tensor, Tensor]:
        """cos and sin, (1, seq, head_dim), computed in fp32. dtype: the embeddings', which they are cast to."""
        tape, s, e = self.ctx.tape, self.ctx.seq, self.c.head_dim
        table = Shape(one=1, seq=s, head_dim=e)
        freqs = tape.new(Shape(one=1, seq=s, half_head_dim=e // 2), FP32, "rotary angles")
        angles = tape.new(table, FP32, "rotary angles")
        cos = ops.scale(tape.like(angles, "cosine"))
        sin = ops.scale(tape.like(angles, "sine"))
        cosine = ops.to(cos, dtype, "cosine")
        sine = ops.to(sin, dtype, "sine")
        del freqs, angles, cos, sin
        return cosine, sine

    def head_weight(self) -> Param:
        return head_weight(self.ctx, self.lm_head)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """LlamaForCausalLM's; else those of transformers' modeling_layers.py, GenericForSequenceClassification and its
        siblings.
        """
        c, ctx = self.c, self.ctx
        if c.task == "sequence-classification":
            return label_logits(ctx, hidden_states, "score", c.num_labels, bias=False)
        if c.task == "token-classification":
            return label_logits(ctx, hidden_states, "score", c.num_labels, bias=c.token_bias)
        if c.task == "question-answering":
            return label_logits(ctx, hidden_states, "qa_outputs", 2)
        return logits_of(ctx, self.lm_head, hidden_states)


# -- config.json -------------------------------------------------------------------------------------------------------


def _layer_types(f: ConfigReader, model_type: str, num_layers: int) -> tuple[int | None, tuple[str, ...]]:
    """The sliding window, and the kind of every layer (configuration_mistral.py, configuration_qwen2.py and
    configuration_qwen3.py). LLaMA has no window; Mistral has one in every layer or in none.
    """
    if model_type == "llama":
        return None, ()
    is_mistral = model_type == "mistral"
    is_set = f.config.get("sliding_window", 4096) is not None and (is_mistral or f.flag("use_sliding_window", False))
    window = f.size("sliding_window", default=4096) if is_set else None
    if is_mistral:
        return window, (SLIDING,) * num_layers if is_set else ()
    full_below = f.size("max_window_layers", default=28, least=0)
    named = f.choices("layer_types", _LAYER_TYPES, num_layers)
    types = named or tuple(_LAYER_TYPES[is_set and i >= full_below] for i in range(num_layers))
    if SLIDING in types and window is None:
        f.problem("layer_types", f"{SLIDING!r} needs a sliding_window, and use_sliding_window true")
    return window, types if SLIDING in types else ()


def _read(f: ConfigReader, model_type: str) -> LlamaConfig:
    """config.json, as its publisher wrote it."""
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
    num_layers = f.size("num_hidden_layers", limit=MAX_LAYERS)
    window, layer_types = _layer_types(f, model_type, num_layers)
    return LlamaConfig(
        hidden=hidden,
        intermediate=f.size("intermediate_size"),
        num_layers=num_layers,
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
        max_positions=f.size("max_position_embeddings", default=MAX_SIZE),
        token_bias=f.flag("token_classification_bias", True),
        head_dropout=f.share("classifier_dropout", f.share("hidden_dropout", 0.1)),
        sliding_window=window,
        layer_types=layer_types,
        full_mask=model_type != "mistral" or not layer_types,
    )


def _modules(config: LlamaConfig) -> Modules:
    """Those of LlamaForCausalLM and its siblings with other heads."""
    norms = ("self_attn.q_norm", "self_attn.k_norm") if config.qk_norm else ()
    return modules_of(
        "model",
        "layers",
        config.num_layers,
        linear=(
            *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
            *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        ),
        others=("self_attn", *norms, "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm"),
        embeddings=("embed_tokens",),
        head=("lm_head",) if config.task == "causal-lm" else (),
        classifier={
            "sequence-classification": ("score",),
            "token-classification": ("score",),
            "question-answering": ("qa_outputs",),
        }.get(config.task, ()),
        around=(
            *("model.norm", "model.rotary_emb"),
            *(("dropout",) if config.task == "token-classification" else ()),
        ),
        task=config.task,
    )


FAMILY = Family(
    "llama",
    _read,
    Llama,
    _modules,
    ("q_proj", "v_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    block_order=(
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("self_attn.q_norm", "self_attn.k_norm", "mlp", "input_layernorm", "post_attention_layernorm"),
    ),
    types_apart=True,
    kernels=("liger-rms-norm", "liger-rope", "liger-swiglu"),
    lora_kernels=("mlp", "qkv", "o"),
)
