"""BERT and RoBERTa with a head for classification, or as the masked language models that they are published as.

Modelled implementation: transformers' modeling_bert.py and modeling_roberta.py.
"""

from typing import Final

from memplanner.components.architectures.common import head_of, label_logits, logits_of
from memplanner.components.architectures.family import MAX_LAYERS, ConfigReader, Family, Modules, Published, modules_of
from memplanner.components.architectures.tasks import Task
from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import INT64, Shape
from memplanner.tape import nn, ops
from memplanner.tape.attention import Heads
from memplanner.tape.engine import Tensor


class BertConfig(Published):
    """The fields of config.json that decide the tensors. pooler: it is BERT, whose classifier of sequences sits on a
    pooler, and not RoBERTa, whose has a layer of its own. head_dropout: of all heads.
    """

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    vocab: int
    positions: int
    types: int
    pooler: bool
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    task: Task = "sequence-classification"


class Bert:
    """The model, written in the order of its forward pass."""

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
            self.ctx.kernel(heads, mask, self.c.attention_dropout, q.dtype),
            q,
            k,
            v,
            mask=mask,
            causal=False,
            dropout=self.c.attention_dropout,
            softmax="scores",
            autocast=self.ctx.attention_type(q.dtype),
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
        """The head's: of the first token for classification of sequences, else of all tokens."""
        ctx, c = self.ctx, self.c
        if c.task == "token-classification":
            return label_logits(ctx, hidden_states, "classifier", c.num_labels)
        if c.task == "question-answering":
            return label_logits(ctx, hidden_states, "qa_outputs", 2)
        return self.predictions(hidden_states) if c.task == "masked-lm" else self.classes(hidden_states)

    def predictions(self, hidden_states: Tensor) -> Tensor:
        """BertOnlyMLMHead and RobertaLMHead: dense, activation, LayerNorm, and the embeddings as decoder. The decoder's
        bias is the head's own, and so comes first.
        """
        ctx, c = self.ctx, self.c
        norm = "LayerNorm" if c.pooler else "layer_norm"
        dense = LinearSpec(_mlm_dense(c), c.hidden, c.hidden, bias=True, in_block=False)
        decoder = head_of(
            c.vocab, c.hidden, path=_mlm_decoder(c), bias=True, tied_to="embeddings.word_embeddings.weight"
        )
        ctx.param(f"{decoder.path}.bias", decoder.bias_shape)
        x = ctx.linear(dense, hidden_states, self.hidden)
        x = ops.activation(c.activation if c.pooler else "gelu", x, autocast=ctx.autocast is not None)
        x = self.norm(f"{_mlm_dense(c).rpartition('.')[0]}.{norm}", x)
        return logits_of(ctx, decoder, x)

    def classes(self, hidden_states: Tensor) -> Tensor:
        """BERT: pooler (dense, tanh), dropout, linear. RoBERTa: dropout, dense, tanh, dropout, linear."""
        ctx, c = self.ctx, self.c
        x = ops.select_first(hidden_states, self.first)
        labels = Shape(batch=ctx.batch, labels=c.num_labels)
        d, n = c.hidden, c.num_labels
        if c.pooler:
            x = ops.tanh(ctx.linear(LinearSpec("pooler.dense", d, d, bias=True, in_block=False), x, self.first))
            x = ops.dropout(x, c.head_dropout)
            return ctx.head(LinearSpec("classifier", d, n, bias=True), x, labels)
        x = ops.dropout(x, c.head_dropout)
        x = ops.tanh(ctx.head(LinearSpec("classifier.dense", d, d, bias=True), x, self.first))
        x = ops.dropout(x, c.head_dropout)
        return ctx.head(LinearSpec("classifier.out_proj", d, n, bias=True), x, labels)

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """RobertaModel: token ids to the last hidden state."""
        embedding_output = self.embeddings(input_ids)
        mask = self.ctx.attention.mask(self.ctx, embedding_output.dtype, causal=False)
        hidden = self.ctx.layers("encoder.layer", self.c.num_layers, self.block, [embedding_output], lambda _: mask)
        return hidden


# -- config.json -------------------------------------------------------------------------------------------------------


def _read(f: ConfigReader, model_type: str) -> BertConfig:
    """config.json, as its publisher wrote it."""
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    f.divides("num_attention_heads", heads, hidden, "hidden_size")
    dropout = f.share("hidden_dropout_prob", 0.1)
    return BertConfig(
        hidden=hidden,
        intermediate=f.size("intermediate_size"),
        num_layers=f.size("num_hidden_layers", limit=MAX_LAYERS),
        num_heads=heads,
        vocab=f.size("vocab_size"),
        positions=f.size("max_position_embeddings", default=512),
        types=f.size("type_vocab_size", default=2),
        pooler=model_type == "bert",
        activation=f.activation("hidden_act", "gelu"),
        hidden_dropout=dropout,
        attention_dropout=f.share("attention_probs_dropout_prob", 0.1),
        head_dropout=f.share("classifier_dropout", dropout),
    )


_ROBERTA_HEAD: Final = ("classifier.dense", "classifier.dropout", "classifier.out_proj")


def _classifier(config: BertConfig) -> tuple[str, ...]:
    """The new head, and what is in it."""
    if config.task == "masked-lm":
        return ()
    if config.task == "question-answering":
        return ("qa_outputs",)
    layered = config.task == "sequence-classification" and not config.pooler
    return ("classifier", *(_ROBERTA_HEAD if layered else ()))


def _mlm_decoder(config: BertConfig) -> str:
    """The last layer of the masked language model's head, which is not under the root."""
    return "cls.predictions.decoder" if config.pooler else "lm_head.decoder"


def _mlm_dense(config: BertConfig) -> str:
    return "cls.predictions.transform.dense" if config.pooler else "lm_head.dense"


def _mlm_others(config: BertConfig) -> tuple[str, ...]:
    """The head's modules but for its linear layers."""
    if not config.pooler:
        return ("lm_head", "lm_head.layer_norm")
    transform = "cls.predictions.transform"
    inside = (transform, f"{transform}.transform_act_fn", f"{transform}.LayerNorm")
    return ("cls", "cls.predictions", *inside)


def _modules(config: BertConfig) -> Modules:
    """Those of BertForSequenceClassification, RobertaForSequenceClassification and their siblings."""
    root = "bert" if config.pooler else "roberta"
    pooled = config.pooler and config.task == "sequence-classification"
    masked = config.task == "masked-lm"
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
        outside=("bert.pooler.dense",) if pooled else (_mlm_dense(config),) if masked else (),
        head=(_mlm_decoder(config),) if masked else (),
        classifier=_classifier(config),
        around=(
            *(f"{root}.{name}" for name in ("embeddings", "encoder")),
            *(f"{root}.embeddings.{name}" for name in ("LayerNorm", "dropout")),
            *(("bert.pooler", "bert.pooler.activation") if pooled else ()),
            *(("dropout",) if pooled or config.task == "token-classification" else ()),
            *(_mlm_others(config) if masked else ()),
        ),
        task=config.task,
    )


FAMILY = Family(
    "bert",
    _read,
    Bert,
    _modules,
    ("query", "value"),
    ("query", "key", "value", "dense"),
    tasks=("sequence-classification", "token-classification", "question-answering", "masked-lm"),
    takes_over=("masked-lm",),
    has_loss_function=False,
)
"""A published masked language model is fine-tuned as a classifier of sequences, whose head takes the other's place."""
