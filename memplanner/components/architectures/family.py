"""What a family of architectures answers, and how its config.json is read: types and ranges checked, problems kept."""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from typing import Any

from memplanner.components.architectures.tasks import Task
from memplanner.components.context import Context
from memplanner.errors import Problem, nearest
from memplanner.frozen import Frozen
from memplanner.tape.engine import Param
from memplanner.tape.ops import KNOWN_ACTIVATIONS

MAX_SIZE = 1 << 24
"""No published model has a dimension above this."""
MAX_LAYERS = 512
"""Published models have up to 126 (Llama 3.1 405B); each layer costs a prediction about a millisecond."""


class ConfigReader:
    """The config's fields, read with their types and ranges checked; problems are collected."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config, self.where = config, where
        self.problems: list[Problem] = []

    def problem(self, key: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(where=self.where, key=key, message=message, hint=hint))

    def size(self, *keys: str, default: int | None = None, limit: int = MAX_SIZE, least: int = 1) -> int:
        """The first of the keys that is there, as a whole number from `least` to `limit`."""
        for key in keys:
            value = self.config.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self.problem(key, f"{show_value(value)} is not a whole number")
            elif not least <= value <= limit:
                self.problem(key, f"{show_value(value)} is not between {least} and {limit}")
            else:
                return value
            return 1
        if default is None:
            self.problem(keys[0], "missing")
            return 1
        return default

    def choices(self, key: str, known: Collection[str], count: int) -> tuple[str, ...] | None:
        """A list of `count` words, each of them known; None where the key is not there."""
        value = self.config.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self.problem(key, f"{show_value(value)} is not a list of names")
        elif unknown := next((word for word in value if word not in known), None):
            hint = f"{nearest(unknown, known)} modelled: {', '.join(sorted(known))}".strip()
            self.problem(key, f"{show_value(unknown)} is not modelled", hint)
        elif len(value) != count:
            self.problem(key, f"{len(value)} names for {count} layers")
        else:
            return tuple(value)
        return None

    def flag(self, key: str, default: bool) -> bool:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(key, f"{show_value(value)} is not true or false")
            return default
        return value

    def share(self, key: str, default: float) -> float:
        value = self.config.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            self.problem(key, f"{show_value(value)} is not a number from 0 to below 1")
            return default
        return float(value)

    def activation(self, key: str, default: str) -> str:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or value not in KNOWN_ACTIVATIONS:
            known = ", ".join(sorted(KNOWN_ACTIVATIONS))
            self.problem(key, f"{show_value(value)} is not an activation that is modelled", f"modelled: {known}")
            return default
        return value

    def divides(self, key: str, part: int, whole: int, whole_key: str) -> None:
        if whole % part:
            self.problem(key, f"{part} does not divide {whole_key} {whole}")


def show_value(value: Any) -> str:
    """A config's value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class Published(Frozen):
    """What the settings of every family say of how the weights were published, and of the head that is trained.

    num_labels: of a head for classification. is_regression: a sequence has one number instead. published_as: the class
    that the weights were published as, where its head gives way to that of the task without being told to.
    head_dropout: in front of a head that labels tokens. saved_in: the plan's word for the format of weights that were
    saved quantised, "" for others; multiplied_in: the type that their products are in; is_format_assumed: whether the
    model's name alone speaks for both.
    """

    task: Task = "causal-lm"
    num_labels: int = 2
    is_regression: bool = False
    published_as: str = ""
    head_dropout: float = 0.1
    saved_in: str = ""
    multiplied_in: str = ""
    is_format_assumed: bool = False


class Modules(Frozen):
    """A model's modules by their paths in named_modules().

    root: what the paths of the blocks, and of all else under the head, begin with. stack: the list of the blocks.
    blocks: the blocks themselves. linear: the linear layers under the head. outside: those of them that are in no
    block. embeddings: tables of rows. head: the output projection of a language model, a linear layer that no word for
    all of them means. classifier: a classifier's head and what is in it. others: what patterns and names match as well.
    guards_head: peft keeps the classifier's head from being a target of adapters, as it does for sequences alone
    (peft_model.py, PeftModelForSequenceClassification beside PeftModelForTokenClassification).
    """

    root: str
    stack: str
    blocks: tuple[str, ...]
    linear: tuple[str, ...]
    outside: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    classifier: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    guards_head: bool = True

    @property
    def all(self) -> tuple[str, ...]:
        """Every module."""
        around = (self.root, self.stack, *self.embeddings, *self.head, *self.classifier)
        return (*self.linear, *around, *self.blocks, *self.others)


def modules_of(
    root: str,
    stack: str,
    num_layers: int,
    *,
    linear: Iterable[str],
    others: Iterable[str],
    embeddings: Iterable[str],
    outside: Iterable[str] = (),
    head: Iterable[str] = (),
    classifier: Iterable[str] = (),
    around: Iterable[str] = (),
    task: Task = "causal-lm",
) -> Modules:
    """The modules of a stack of blocks and of what is around it.

    stack: its path from the root. linear, others: of a block, by their paths in it. embeddings: from the root. outside:
    linear layers in no block, by whole paths like head, classifier and around; the last are all else.
    """
    blocks = [f"{root}.{stack}.{i}" for i in range(num_layers)]
    linear, others, outer = tuple(linear), tuple(others), tuple(outside)
    return Modules(
        root=root,
        stack=f"{root}.{stack}",
        blocks=tuple(blocks),
        linear=(*(f"{block}.{name}" for block in blocks for name in linear), *outer),
        outside=outer,
        embeddings=tuple(f"{root}.{name}" for name in embeddings),
        head=tuple(head),
        classifier=tuple(classifier),
        others=(*around, *(f"{block}.{name}" for block in blocks for name in others)),
        guards_head=task not in ("token-classification", "question-answering"),
    )


class Family(Frozen, kw_only=False):
    """A family of architectures: how its config is read and its forward pass written, which modules it has, the
    projections that methods take by default (peft's mapping, names or a pattern; and every linear layer of the
    blocks), and what it can be trained for.

    tasks: the first is the default. takes_over: tasks of published models that are trained for the default one unless
    the plan says otherwise. has_loss_function: the losses of classification are transformers' loss_function
    (loss/loss_utils.py), and not code of the model's own. block_order: a block's modules with weights in the order in
    which they are registered, where that is not the order of the forward pass: an optimizer's loop takes parameters as
    named_parameters() gives them.
    """

    name: str
    read: Callable[[ConfigReader, str], Any]
    model: Callable[[Any, Context], Any]
    modules: Callable[[Any], Modules]
    lora_targets: tuple[str, ...] | str
    block_targets: tuple[str, ...]
    tasks: tuple[Task, ...] = ("causal-lm", "sequence-classification", "token-classification", "question-answering")
    takes_over: tuple[Task, ...] = ()
    has_loss_function: bool = True
    types_apart: bool = False
    """Whether embeddings, norms and head can be of another type than the linear layers of the blocks."""
    kernels: tuple[str, ...] = ()
    """The kernels of other packages that it is modelled with."""
    lora_kernels: tuple[str, ...] = ()
    """Those that compute linear layers together with their adapters: the words of a method's `kernels`."""
    block_order: tuple[str, ...] = ()

    def in_module_order(self, params: Sequence[Param]) -> list[Param]:
        """The parameters of a tape, which has them in the order of the forward pass, as named_parameters() has them."""
        if not self.block_order:
            return list(params)

        def place(param: Param) -> int:
            path = param.name.split(".", 2)[-1]
            return next((i for i, module in enumerate(self.block_order) if path.startswith(f"{module}.")), -1)

        def block(param: Param) -> str:
            stack, _, rest = param.name.partition(".")
            return f"{stack}.{rest.partition('.')[0]}"

        return [param for _, group in groupby(params, key=block) for param in sorted(group, key=place)]

    def longest_sequence(self, config: Any) -> int | None:
        """Tokens that the position table has room for; None where positions are rotary. RoBERTa's first two rows are
        for padding.
        """
        positions: int | None = getattr(config, "positions", None)
        if positions is not None and getattr(config, "pooler", None) is False:
            return positions - 2
        return positions

    def trained_length(self, config: Any) -> int | None:
        """The model's max_position_embeddings, where positions are rotary and a longer sequence runs nevertheless;
        None where they are a table.
        """
        max_positions: int | None = getattr(config, "max_positions", None)
        return max_positions

    def heads(self, config: Any) -> tuple[int, int]:
        """Query heads per key/value head, and the width of a head."""
        kv_heads = getattr(config, "num_kv_heads", config.num_heads)
        return config.num_heads // kv_heads, getattr(config, "head_dim", config.hidden // config.num_heads)
