"""Weights that no operation takes, as those of a tower for images where a batch has text alone: they are loaded, and
quantised and adapted as all others are, but get no gradient.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

from memplanner.components.architectures.recorded.program import Forward
from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import Shape
from memplanner.tape.engine import Param, Tape


def numbered(name: str, repeats: Mapping[str, str], settings: Mapping[str, int]) -> list[str]:
    """A name for each of the equal modules that it stands for."""
    stack = _stack_of(name, repeats)
    return [name.replace("#", str(i), 1) for i in range(settings[repeats[stack]])] if stack else [name]


def hold_unused(
    ctx: Context,
    forward: Forward,
    settings: Mapping[str, int],
    param: Callable[[str, str], Param],
    spec: Callable[[str, str], LinearSpec],
) -> int:
    """Declare them; returns how many numbers the model's own have.

    param, spec: a weight's, by its name in the program and its path in the present scope.
    """
    tape = ctx.tape
    known = {*tape.params}
    unused = [name for name, tensors in forward.weights.items() if tensors.unused]
    for stack, names in groupby(unused, key=lambda name: _stack_of(name, forward.repeats)):
        here = [(name, name.partition(".#.")[2] if stack else _inner(name, forward)) for name in names]
        for tape.scope, tape.current_copies in _stretches(ctx, stack, forward, settings):
            for name, path in here:
                tensors = forward.weights[name]
                if tensors.linear:
                    _hold_linear(ctx, spec(name, path))
                elif not _is_of_linear(name, forward):
                    param(name, path)
    tape.scope, tape.current_copies = "", 1
    for name in tape.params.keys() - known:
        tape.params[name].unused = True
    own = (p for p in tape.params.values() if p.unused and p.role == "weight" and p.category == "parameters")
    return sum(p.stands_for.numel * p.count for p in own)


def _stack_of(name: str, repeats: Mapping[str, str]) -> str:
    return next((path for path in repeats if name.startswith(f"{path}.#")), "")


def _inner(name: str, forward: Forward) -> str:
    return name.removeprefix(f"{forward.root}.")


def _is_of_linear(name: str, forward: Forward) -> bool:
    """Whether it is the bias of a linear layer, which comes with the layer."""
    weight = forward.weights.get(f"{name.removesuffix('.bias')}.weight")
    return name.endswith(".bias") and weight is not None and weight.linear


def _stretches(ctx: Context, stack: str, forward: Forward, settings: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The scopes of equal modules that a method treats alike, and how many they are."""
    if not stack:
        yield "", 1
        return
    prefix = _inner(stack, forward)
    start = 0
    for _, same in groupby(ctx.treated_by_block(prefix, settings[forward.repeats[stack]])):
        count = len([*same])
        yield f"{prefix}.{start}" + (f"–{start + count - 1}" if count > 1 else ""), count
        start += count


def _hold_linear(ctx: Context, spec: LinearSpec) -> None:
    """Let the method make a linear layer's parameters by running it on a tape that nobody reads."""
    tape = ctx.tape
    ctx.tape = aside = Tape(collapse=tape.collapse)
    aside.params, aside.scope, aside.current_copies = tape.params, tape.scope, tape.current_copies
    out, in_ = spec.labels
    try:
        with ctx.no_grad():
            x = aside.new(Shape(**{"rows": 1, in_: spec.in_features}), ctx.weight_dtype, "input")
            ctx.linear(spec, x, Shape(**{"rows": 1, out: spec.out_features}))
    finally:
        ctx.tape = tape
