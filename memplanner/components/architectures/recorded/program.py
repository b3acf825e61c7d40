"""A recorded forward pass: what it consists of, and how a file of it is read."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from memplanner.components.architectures.recorded.sizes import Size, parse_size, size_text
from memplanner.frozen import Frozen


class Value(int):
    """A tensor that the program has made, by its number."""

    __slots__ = ()


class Given(int):
    """A tensor from outside of a block, by its number in what the block is given."""

    __slots__ = ()


class Weight(str):
    """A parameter or a buffer, by its name: in a block one of the block's own, unless it begins with a slash."""

    __slots__ = ()


class Type(str):
    """An element type: "weights", "lowered" (autocast's where there is autocast) or a type's own name. Where a value
    stands in its place, the type is the value's.
    """

    __slots__ = ()


class Setting(str):
    """A number in config.json, by its key."""

    __slots__ = ()


class Step(Frozen, kw_only=False):
    """One operation. outs: the values that it makes. shapes: theirs, by their places in the program's list. frees:
    values whose last name goes with it. lowered: whether autocast is on here, where there is any.
    """

    name: str
    args: tuple[Any, ...]
    outs: tuple[int, ...]
    shapes: tuple[int, ...]
    frees: tuple[int, ...]
    module: str
    lowered: bool


class Tensors(Frozen, kw_only=False):
    """A weight's shape, by its place in the program's list. linear: it is a linear layer's, with or without a bias;
    conv1d: stored (in, out). buffer: it is no parameter. frozen: it is a parameter that never learns. unused: no
    operation takes it, as a tower's for images where there are none. dtype: its type, where that is not the model's.
    """

    shape: int
    linear: bool = False
    bias: bool = False
    conv1d: bool = False
    buffer: bool = False
    unused: bool = False
    frozen: bool = False
    dtype: str = ""


class Block(Frozen, kw_only=False):
    """A kind of block. given: the values of the part before the blocks that it uses. leaving: the value it returns; the
    hidden state that enters is value 0. weights: in the order of named_parameters(). modules: paths of all others.
    """

    given: tuple[int, ...]
    steps: tuple[Step, ...]
    leaving: int
    weights: Mapping[str, Tensors]
    modules: tuple[str, ...]


class Forward(Frozen):
    """The forward pass of a causal language model.

    symbols: the settings that sizes are made of. repeats: lists of equal modules that are not run, by their paths, and
    the setting that says how many there are; in names of weights and modules "#" stands for their numbers.
    counted_before: those of these lists that transformers counts before the blocks where it checkpoints every nth.
    root, stack: as family.Modules has them. tokens, head: the names of the weights of the input embeddings and of the
    output projection, which config.json may make one. before: up to the blocks; entering is the hidden state that
    enters them. after: from the blocks to the head; hidden is what it takes, leaving what the blocks return. logits:
    what follows the head, from its result `projected` to the logits `made`.
    """

    model_type: str
    transformers: str
    symbols: tuple[str, ...]
    shapes: tuple[tuple[Size, ...], ...]
    root: str
    stack: str
    repeats: Mapping[str, str]
    counted_before: tuple[str, ...]
    weights: Mapping[str, Tensors]
    modules: tuple[str, ...]
    before: tuple[Step, ...]
    entering: int
    blocks: Mapping[str, Block]
    leaving: int
    after: tuple[Step, ...]
    hidden: int
    tokens: str
    head: str
    projected: int
    logits: tuple[Step, ...]
    made: int

    @property
    def has_kernels(self) -> bool:
        """Whether attention is one operation, for which a kernel runs, and not written out."""
        return any(step.name == "attention" for block in self.blocks.values() for step in block.steps)


# -- as JSON -----------------------------------------------------------------------------------------------------------


def as_table(forward: Forward) -> dict[str, Any]:
    """The program as JSON has it."""
    return {
        "model_type": forward.model_type,
        "transformers": forward.transformers,
        "symbols": list(forward.symbols),
        "shapes": [[size_text(size) for size in sizes] for sizes in forward.shapes],
        "root": forward.root,
        "stack": forward.stack,
        **({"repeats": dict(forward.repeats)} if forward.repeats else {}),
        **({"counted_before": list(forward.counted_before)} if forward.counted_before else {}),
        "weights": _weights_table(forward.weights),
        "modules": list(forward.modules),
        "before": [_step_row(step) for step in forward.before],
        "entering": forward.entering,
        "blocks": {
            name: {
                "given": list(block.given),
                "steps": [_step_row(step) for step in block.steps],
                "leaving": block.leaving,
                "weights": _weights_table(block.weights),
                "modules": list(block.modules),
            }
            for name, block in forward.blocks.items()
        },
        "leaving": forward.leaving,
        "after": [_step_row(step) for step in forward.after],
        "hidden": forward.hidden,
        "tokens": forward.tokens,
        "head": forward.head,
        "projected": forward.projected,
        "logits": [_step_row(step) for step in forward.logits],
        "made": forward.made,
    }


def from_table(table: dict[str, Any]) -> Forward:
    """The program that `as_table` wrote; ValueError, KeyError or TypeError where it is none."""
    return Forward(
        model_type=table["model_type"],
        transformers=table["transformers"],
        symbols=tuple(table["symbols"]),
        shapes=tuple(tuple(parse_size(text) for text in sizes) for sizes in table["shapes"]),
        root=table["root"],
        stack=table["stack"],
        repeats=table.get("repeats", {}),
        counted_before=tuple(table.get("counted_before", ())),
        weights=_weights(table["weights"]),
        modules=tuple(table["modules"]),
        before=tuple(map(_step, table["before"])),
        entering=table["entering"],
        blocks={
            name: Block(
                tuple(block["given"]),
                tuple(map(_step, block["steps"])),
                block["leaving"],
                _weights(block["weights"]),
                tuple(block["modules"]),
            )
            for name, block in table["blocks"].items()
        },
        leaving=table["leaving"],
        after=tuple(map(_step, table["after"])),
        hidden=table["hidden"],
        tokens=table["tokens"],
        head=table["head"],
        projected=table["projected"],
        logits=tuple(map(_step, table["logits"])),
        made=table["made"],
    )


def _weights_table(weights: Mapping[str, Tensors]) -> dict[str, Any]:
    default = Tensors(0)
    return {
        name: {key: value for key, value in vars_of(w).items() if key == "shape" or value != getattr(default, key)}
        for name, w in weights.items()
    }


def vars_of(tensors: Tensors) -> dict[str, Any]:
    """The fields of a weight's record."""
    return {
        key: getattr(tensors, key)
        for key in ("shape", "linear", "bias", "conv1d", "buffer", "frozen", "unused", "dtype")
    }


def _weights(table: dict[str, Any]) -> dict[str, Tensors]:
    return {name: Tensors(**fields) for name, fields in table.items()}


def _step_row(step: Step) -> list[Any]:
    row = [step.name, _written(step.args), list(step.outs), list(step.shapes), list(step.frees), step.module]
    return row if step.lowered else [*row, 0]


def _step(row: Sequence[Any]) -> Step:
    name, args, outs, shapes, frees, module = row[:6]
    return Step(name, tuple(map(_read, args)), tuple(outs), tuple(shapes), tuple(frees), module, len(row) == 6)


_MARKS: Final = {"%": Value, "@": Given, ":": Type, "=": Weight, "$": Setting}


def _written(arg: Any) -> Any:
    if isinstance(arg, list | tuple):
        return [_written(item) for item in arg]
    for mark, kind in _MARKS.items():
        if isinstance(arg, kind):
            return f"{mark}{int(arg) if isinstance(arg, int) else str(arg)}"
    return arg


def _read(arg: Any) -> Any:
    if isinstance(arg, list):
        return [_read(item) for item in arg]
    if isinstance(arg, str):
        kind: Any = _MARKS[arg[0]]
        return kind(int(arg[1:])) if issubclass(kind, int) else kind(arg[1:])
    return arg
