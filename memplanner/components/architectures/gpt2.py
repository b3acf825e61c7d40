"""GPT-2 with its language-modelling head, or one for classification.

Modelled implementation: transformers' modeling_gpt2.py. Its linear layers are Conv1D, weights stored (in, out).
"""

from memplanner.components.architectures.common import head_of, head_weight, label_logits, logits_of
from memplanner.components.architectures.family import MAX_LAYERS, ConfigReader, Family, Modules, Published, modules_of
from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import INT64, Shape
from memplanner.tape import nn, ops
from memplanner.tape.attention import Heads
from memplanner.tape.engine import Param, Tensor


class Gpt2Config(Published):
    """The fields of config.json that decide the tensors."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    vocab: int
    positions: int
    tied: bool = True
    activation: str = "gelu_new"
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    embedding_dropout: float = 0.1


class Gpt2:
    """The model, written in the order of its forward pass."""

    def __init__(self, config: Gpt2Config, ctx: Context) -> None:
        c = config
        self.c, self.ctx, self.vocab = c, ctx, c.vocab
        b, s, d = ctx.batch, ctx.seq, c.hidden
        self.hidden = Shape(batch=b, seq=s, hidden=d)
        self.rows = Shape(batch=b, seq=s, one=1)
        self.inner = Shape(batch=b, seq=s, intermediate=c.intermediate)
        self.joined = Shape(batch=b, seq=s, three_hidden=3 * d)
        self.norm_weight = Shape(hidden=d)
        self.heads = Heads.of(
            batch=b, seq=s, num_heads=c.num_heads, num_kv_heads=c.num_heads, head_dim=d // c.num_heads
        )
        self.c_attn = LinearSpec("attn.c_attn", d, 3 * d, bias=True, conv1d=True)
        self.c_proj = LinearSpec("attn.c_proj", d, d, bias=True, conv1d=True)
        self.mlp_fc = LinearSpec("mlp.c_fc", d, c.intermediate, bias=True, conv1d=True)
        self.mlp_proj = LinearSpec("mlp.c_proj", c.intermediate, d, bias=True, conv1d=True)
        self.lm_head = head_of(c.vocab, d, tied_to="wte.weight" if c.tied else None)

    def norm(self, path: str, x: Tensor) -> Tensor:
        weight = self.ctx.param(f"{path}.weight", self.norm_weight, dtype=self.ctx.norm_dtype)
        bias = self.ctx.param(f"{path}.bias", self.norm_weight, dtype=self.ctx.norm_dtype)
        return nn.layer_norm(x, weight, bias, self.rows, autocast=self.ctx.autocast is not None)

    def attention(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        heads = self.heads
        q, k, v = ops.split(self.ctx.linear(self.c_attn, x, self.joined), self.hidden, 3)
        q, k, v = (ops.view_heads(t, heads.q) for t in (q, k, v))
        out, weights = heads.attend(
            self.ctx.kernel(heads, mask, self.c.attention_dropout, q.dtype),
            q,
            k,
            v,
            mask=mask,
            causal=True,
            dropout=self.c.attention_dropout,
            softmax="value",
            autocast=self.ctx.attention_type(q.dtype),
        )
        out = self.ctx.linear(self.c_proj, out, self.hidden)
        return ops.dropout(out, self.c.residual_dropout), weights

    def mlp(self, x: Tensor) -> Tensor:
        hidden = self.ctx.linear(self.mlp_fc, x, self.inner)
        hidden = ops.activation(self.c.activation, hidden, autocast=self.ctx.autocast is not None)
        hidden = self.ctx.linear(self.mlp_proj, hidden, self.hidden)
        return ops.dropout(hidden, self.c.residual_dropout)

    def block(self, i: int, hidden: Tensor, mask: Tensor | None) -> Tensor:
        residual = hidden
        hidden = self.norm("ln_1", hidden)
        attn_output, _weights = self.attention(hidden, mask)
        hidden = ops.add(attn_output, residual, "residual")
        residual = hidden
        hidden = self.norm("ln_2", hidden)
        feed_forward = self.mlp(hidden)
        return ops.add(residual, feed_forward, "residual")

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """GPT2Model: token ids to the last hidden state."""
        ctx, tape, c = self.ctx, self.ctx.tape, self.c
        positions = Shape(one=1, seq=ctx.seq)
        position_ids = tape.new(positions, INT64, "position ids")
        table = Shape(vocab=c.vocab, hidden=c.hidden)
        inputs_embeds = ctx.embedding("wte", table, input_ids, self.hidden, "embeddings")
        ctx.require_input_gradients(inputs_embeds)
        places, place = Shape(positions=c.positions, hidden=c.hidden), Shape(one=1, seq=ctx.seq, hidden=c.hidden)
        position_embeds = ctx.embedding("wpe", places, position_ids, place, "position embeddings")
        hidden = ops.add_broadcast(inputs_embeds, position_embeds, "embeddings")
        mask = ctx.attention.mask(ctx, inputs_embeds.dtype)
        entering = [ops.dropout(hidden, c.embedding_dropout)]
        del hidden
        hidden = ctx.layers("h", c.num_layers, self.block, entering, lambda _: mask)
        return self.norm("ln_f", hidden)

    def head_weight(self) -> Param:
        return head_weight(self.ctx, self.lm_head)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """GPT2LMHeadModel's, or those of GPT2ForSequenceClassification and its siblings."""
        c, ctx = self.c, self.ctx
        if c.task == "sequence-classification":
            return label_logits(ctx, hidden_states, "score", c.num_labels, bias=False)
        if c.task == "token-classification":
            return label_logits(ctx, hidden_states, "classifier", c.num_labels)
        if c.task == "question-answering":
            return label_logits(ctx, hidden_states, "qa_outputs", 2)
        return logits_of(ctx, self.lm_head, hidden_states)


# -- config.json -------------------------------------------------------------------------------------------------------


def _read(f: ConfigReader, model_type: str) -> Gpt2Config:
    """config.json, as its publisher wrote it."""
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
        head_dropout=f.share("classifier_dropout", f.share("hidden_dropout", 0.1)),
    )


def _modules(config: Gpt2Config) -> Modules:
    """Those of GPT2LMHeadModel and its siblings with other heads."""
    return modules_of(
        "transformer",
        "h",
        config.num_layers,
        linear=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
        others=(
            *("ln_1", "attn", "attn.attn_dropout", "attn.resid_dropout"),
            *("ln_2", "mlp", "mlp.act", "mlp.dropout"),
        ),
        embeddings=("wte", "wpe"),
        head=("lm_head",) if config.task == "causal-lm" else (),
        classifier={
            "sequence-classification": ("score",),
            "token-classification": ("classifier",),
            "question-answering": ("qa_outputs",),
        }.get(config.task, ()),
        around=(
            *("transformer.drop", "transformer.ln_f"),
            *(("dropout",) if config.task == "token-classification" else ()),
        ),
        task=config.task,
    )


FAMILY = Family("gpt2", _read, Gpt2, _modules, ("c_attn",), ("c_attn", "c_proj", "c_fc"), has_loss_function=False)
