"""BERT and RoBERTa with a sequence-classification head (GLUE).

Modelled implementation: transformers' modeling_bert.py and modeling_roberta.py.
"""

from typing import Final

from memplanner.components.architectures.family import MAX_LAYERS, ConfigReader, Family, Modules, modules_of
from memplanner.components.context import Context, LinearSpec
from memplanner.frozen import Frozen
from memplanner.program.shapes import INT64, Shape
from memplanner.tape import nn, ops
from memplanner.tape.attention import Heads
from memplanner.tape.engine import Tensor


class BertConfig(Frozen):
    """The fields of config.json that decide the tensors. pooler: BERT's head sits on a pooler, RoBERTa's is its own."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    vocab: int
    positions: int
    types: int
    num_labels: int
    pooler: bool
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.1


class Bert:
    """The classifier, written in the order of its forward pass."""

    def __init__(self, config: BertConfig, ctx: Context) -> None:
        c = config
        self.c, self.ctx = c, ctx
        b, s, d, f = ctx.batch, ctx.seq, c.hidden, c.intermediate
        self.hidden = Shape(batch=b, seq=s, hidden=d)
        self.rows = Shape(batch=b, seq=s, one=1)
        self.inner = Shape(batch=b, seq=s, intermediate=f)
        self.first = Shape(batch=b, hidden=d)
        self.norm_weight = Shape(hidden=d)
        self.heads = Heads.of(
            batch=b, seq=s, num_heads=c.num_heads, num_kv_heads=c.num_heads, head_dim=d // c.num_heads
        )
        self.query = LinearSpec("attention.self.query", d, d, bias=True)
        self.key = LinearSpec("attention.self.key", d, d, bias=True)
        self.value = LinearSpec("attention.self.value", d, d, bias=True)
        self.attention_out = LinearSpec("attention.output.dense", d, d, bias=True)
        self.up = LinearSpec("intermediate.dense", d, f, bias=True)
        self.down = LinearSpec("output.dense", f, d, bias=True)

    def norm(self, path: str, x: Tensor) -> Tensor:
        weight = self.ctx.param(f"{path}.weight", self.norm_weight, dtype=self.ctx.norm_dtype)
        bias = self.ctx.param(f"{path}.bias", self.norm_weight, dtype=self.ctx.norm_dtype)
        return nn.layer_norm(x, weight, bias, self.rows, autocast=self.ctx.autocast is not None)

    def self_attention(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        heads = self.heads
        q, k, v = (
            ops.view_heads(self.ctx.linear(spec, x, self.hidden), heads.q)
            for spec in (self.query, self.key, self.value)
        )
        return heads.attend(
            self.ctx.kernel(heads, mask, self.c.attention_dropout),
            q,
            k,
            v,
            mask=mask,
            causal=False,
            dropout=self.c.attention_dropout,
            softmax="scores",
            autocast=self.ctx.autocast,
        )

    def output(self, spec: LinearSpec, norm: str, hidden: Tensor, residual: Tensor) -> Tensor:
        """dense, dropout, add, LayerNorm."""
        hidden = self.ctx.linear(spec, hidden, self.hidden)
        hidden = ops.dropout(hidden, self.c.hidden_dropout)
        hidden = self.norm(norm, ops.add(hidden, residual, "residual"))
        return hidden

    def block(self, i: int, hidden: Tensor, mask: Tensor | None) -> Tensor:
        attention, _weights = self.self_attention(hidden, mask)
        attention_output = self.output(self.attention_out, "attention.output.LayerNorm", attention, hidden)
        del attention
        intermediate = self.ctx.linear(self.up, attention_output, self.inner)
        intermediate = ops.activation(self.c.activation, intermediate, autocast=self.ctx.autocast is not None)
        return self.output(self.down, "output.LayerNorm", intermediate, attention_output)

    def embeddings(self, input_ids: Tensor) -> Tensor:
        """Words, token types and positions, normalised."""
        ctx, tape, c = self.ctx, self.ctx.tape, self.c
        d = c.hidden
        batch = ctx.batch if not c.pooler else 1
        ids = Shape(batch=batch, seq=ctx.seq)
        for name in ("position_ids", "token_type_ids"):
            ctx.buffer(f"embeddings.{name}", Shape(one=1, positions=c.positions), INT64)
        position_ids = tape.new(ids, INT64, "position ids")
        type_ids = tape.new(ids, INT64, "token type ids")
        words = ctx.embedding(
            "embeddings.word_embeddings", Shape(vocab=c.vocab, hidden=d), input_ids, self.hidden, "word embeddings"
        )
        table_shape = Shape(positions=c.positions, hidden=d)
        if c.pooler:  # BERT's module has its positions second, RoBERTa's last: an optimizer's loop goes in that order
            ctx.param("embeddings.position_embeddings.weight", table_shape)
        types = ctx.embedding(
            *("embeddings.token_type_embeddings", Shape(types=c.types, hidden=d), type_ids, self.hidden),
            "token type embeddings",
        )
        ctx.require_input_gradients(words)
        hidden = ops.add(words, types, "embeddings")
        for name in ("weight", "bias"):
            ctx.param(f"embeddings.LayerNorm.{name}", self.norm_weight, dtype=ctx.norm_dtype)
        positions = ("embeddings.position_embeddings", table_shape, position_ids)
        if c.pooler:
            places = ctx.embedding(*positions, Shape(one=1, seq=ctx.seq, hidden=d), "position embeddings")
            hidden = ops.add_broadcast(hidden, places, "embeddings")
        else:
            places = ctx.embedding(*positions, self.hidden, "position embeddings")
            hidden = ops.add(hidden, places, "embeddings")
        hidden = self.norm("embeddings.LayerNorm", hidden)
        return ops.dropout(hidden, c.hidden_dropout)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """BERT: pooler (dense, tanh), dropout, linear. RoBERTa: dropout, dense, tanh, dropout, linear."""
        ctx, c = self.ctx, self.c
        x = ops.select_first(hidden_states, self.first)
        labels = Shape(batch=ctx.batch, labels=c.num_labels)
        d, n = c.hidden, c.num_labels
        if c.pooler:
            x = ops.tanh(ctx.linear(LinearSpec("pooler.dense", d, d, bias=True, in_block=False), x, self.first))
            x = ops.dropout(x, c.classifier_dropout)
            return ctx.head(LinearSpec("classifier", d, n, bias=True), x, labels)
        x = ops.dropout(x, c.classifier_dropout)
        x = ops.tanh(ctx.head(LinearSpec("classifier.dense", d, d, bias=True), x, self.first))
        x = ops.dropout(x, c.classifier_dropout)
        return ctx.head(LinearSpec("classifier.out_proj", d, n, bias=True), x, labels)

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """RobertaModel: token ids to the last hidden state."""
        embedding_output = self.embeddings(input_ids)
        mask = self.ctx.attention.mask(self.ctx, causal=False)
        hidden = self.ctx.layers("encoder.layer", self.c.num_layers, self.block, [embedding_output], lambda _: mask)
        return hidden


# -- config.json -------------------------------------------------------------------------------------------------------


def _read(f: ConfigReader, model_type: str) -> BertConfig:
    """config.json, as its publisher wrote it."""
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


_ROBERTA_HEAD: Final = ("classifier.dense", "classifier.dropout", "classifier.out_proj")


def _modules(config: BertConfig) -> Modules:
    """Those of BertForSequenceClassification and RobertaForSequenceClassification."""
    root = "bert" if config.pooler else "roberta"
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    return modules_of(
        root,
        "encoder.layer",
        config.num_layers,
        linear=(
            *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
            *("intermediate.dense", "output.dense"),
        ),
        others=(
            *("attention", "attention.self", "attention.self.dropout"),
            *("attention.output", "attention.output.LayerNorm", "attention.output.dropout"),
            *("intermediate", "intermediate.intermediate_act_fn"),
            *("output", "output.LayerNorm", "output.dropout"),
        ),
        embeddings=(f"embeddings.{name}" for name in tables),
        outside=("pooler.dense",) if config.pooler else (),
        classifier=("classifier", *(() if config.pooler else _ROBERTA_HEAD)),
        around=(
            *(f"{root}.{name}" for name in ("embeddings", "encoder")),
            *(f"{root}.embeddings.{name}" for name in ("LayerNorm", "dropout")),
            *(("bert.pooler", "bert.pooler.activation", "dropout") if config.pooler else ()),
        ),
    )


FAMILY = Family(
    "bert",
    _read,
    Bert,
    _modules,
    ("query", "value"),
    ("query", "key", "value", "dense"),
    classifier=True,
    trained_as=("ForSequenceClassification", "ForMaskedLM", "ForPreTraining", "Model"),
)
"""A published masked language model is fine-tuned as a classifier of sequences, whose head takes the other's place."""
