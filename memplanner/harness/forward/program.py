"""From recordings of a forward pass with several sets of sizes to one program for all sizes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from memplanner.components.architectures.recorded.program import (
    Block,
    Forward,
    Given,
    Step,
    Tensors,
    Type,
    Value,
    Weight,
)
from memplanner.components.architectures.recorded.sizes import Size
from memplanner.frozen import Frozen
from memplanner.harness.errors import NotBuildableError
from memplanner.harness.forward.operations import Begin, Call, End, Entry, Free
from memplanner.harness.forward.sizes import Sizes

_MAKING = ("arange", "zeros", "ones", "empty", "full", "rand", "scalar_tensor")
"""Operations that make a tensor from nothing but a type."""
_BLOCK = re.compile(r"(.+)\.(\d+)")


class Recording(Frozen, eq=False):
    """What one forward pass gave. settings: the numbers that sizes are made of. parts: those of the model's other
    parts, which are not run, such as a tower for images; depths: of these, how many equal modules a list has. model:
    the module itself.
    """

    settings: Mapping[str, int]
    parts: Mapping[str, int]
    depths: Mapping[str, int]
    entries: Sequence[Entry]
    model: nn.Module


def program_of(recordings: Sequence[Recording], lowered: Recording, *, transformers: str) -> tuple[Forward, list[str]]:
    """The program that all recordings have in common, and the kind of each block.

    recordings: of the model in bf16. lowered: of the same model in fp32 under autocast, which shows what changes of
    type are to; its sizes are those of the first. NotBuildableError where the recordings differ in more than sizes.
    """
    builder = _Builder(recordings, lowered)
    return builder.program(transformers), builder.order


class _Builder:
    def __init__(self, recordings: Sequence[Recording], lowered: Recording) -> None:
        self.recordings = recordings
        self.first = recordings[0]
        self.sizes = Sizes([r.settings for r in recordings])
        self.part_sizes = Sizes([_of_parts(r) for r in recordings])
        self.shapes: list[tuple[Size, ...]] = []
        self.types = _types(self.first.entries, lowered.entries)
        self.entries = self._common()
        self.head = self._head()
        self.order: list[str] = []
        """The kind of each block."""

    # -- what the recordings have in common ------------------------------------------------------------------------

    def _common(self) -> list[Any]:
        entries: list[Any] = []
        for place, same in enumerate(self._together()):
            entry = same[0]
            if isinstance(entry, Call):
                args = tuple(self._arg(entry, *arg) for arg in zip(*(other.args for other in same), strict=True))
                if entry.name in _MAKING:
                    args = (self._arg(entry, entry.types[0]),)
                if entry.name == "to":
                    args = (args[0], self.types[place])
                shapes = [self._shape(dims) for dims in zip(*(other.shapes for other in same), strict=True)]
                entries.append(Step(entry.name, args, entry.outs, tuple(shapes), (), entry.module, entry.lowered))
            else:
                entries.append(entry)
        return entries

    def _together(self) -> list[tuple[Any, ...]]:
        columns = [recording.entries for recording in self.recordings]
        for place, same in enumerate(zip(*columns, strict=False)):
            if len({_without_sizes(entry) for entry in same}) > 1:
                raise NotBuildableError(
                    f"entry {place} differs with sizes: {[_without_sizes(entry) for entry in same]}"
                )
        if len({len(column) for column in columns}) > 1:
            raise NotBuildableError("the number of operations depends on sizes")
        return list(zip(*columns, strict=True))

    def _arg(self, call: Call, arg: Any, *others: Any) -> Any:
        """An argument that all have in common; a size in it is said by the result's shape as well."""
        if isinstance(arg, Type):
            return Type({"bfloat16": "weights"}.get(arg, arg))
        if isinstance(arg, list):
            return [self._arg(call, *items) for items in zip(arg, *others, strict=True)]
        if isinstance(arg, float) and call.name not in ("pow", "dropout", "attention", "sdpa"):
            return 1.0
        return arg if all(other == arg for other in others) else 0

    def _shape(self, dims: Sequence[tuple[int, ...]], sizes: Sizes | None = None) -> int:
        shape = tuple((sizes or self.sizes).size(values) for values in zip(*dims, strict=True))
        if shape not in self.shapes:
            self.shapes.append(shape)
        return self.shapes.index(shape)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _head(self) -> int:
        """The place of the output projection."""
        model = self.first.model
        head = model.get_output_embeddings()  # type: ignore[operator]
        names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is head.weight]
        for place in reversed(range(len(self.entries))):
            entry = self.entries[place]
            if isinstance(entry, Step) and entry.name == "module" and entry.args[1] in names:
                return place
        raise NotBuildableError("the output projection is not called")

    def _first_block(self) -> int:
        return next(i for i, entry in enumerate(self.entries) if isinstance(entry, Begin))

    def _path(self, module: nn.Module) -> str:
        return next(str(name) for name, m in self.first.model.named_modules() if m is module)

    def program(self, transformers: str) -> Forward:
        begins = [i for i, entry in enumerate(self.entries) if isinstance(entry, Begin)]
        ends = [i for i, entry in enumerate(self.entries) if isinstance(entry, End)][:-1]
        if not begins or len(begins) != len(ends):
            raise NotBuildableError("the model has no stack of blocks that transformers checkpoints")
        paths = [_BLOCK.fullmatch(self.entries[i].path) for i in begins]
        stacks = {match[1] if match else "" for match in paths}
        if (
            len(stacks) != 1
            or any(b > e for b, e in zip(begins, ends, strict=True))
            or any(e > b for e, b in zip(ends, begins[1:], strict=False))
        ):
            raise NotBuildableError(f"its blocks are not in one row: {sorted(stacks)}")
        stack = stacks.pop()
        root = stack.partition(".")[0]
        kinds: dict[str, Block] = {}
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            until = begins[number + 1] if number + 1 < len(begins) else self.head
            block = self._block(f"{stack}.{number}", begin, end, until, is_last=number + 1 == len(begins))
            name = next((name for name, kind in kinds.items() if kind == block), "")
            if not name:
                name = chr(ord("A") + len(kinds))
                kinds[name] = block
            self.order.append(name)
        before = self.entries[: begins[0]]
        entering, leaving = self.entries[begins[0]].entering, self.entries[ends[-1]].leaving
        inside = {
            v
            for i, j in zip(begins, ends, strict=True)
            for e in self.entries[i:j]
            if isinstance(e, Step)
            for v in e.outs
        }
        after = [
            e
            for e in self.entries[ends[-1] + 1 : self.head]
            if not (isinstance(e, Free) and e.value in inside - {leaving})
        ]
        head = self.entries[self.head]
        hidden = head.args[0]
        logits = [e for e in self.entries[self.head + 1 : -1] if not (isinstance(e, Free) and e.value == hidden)]
        made = self.entries[-1].leaving
        repeats = self._repeats(f"{stack}.")
        outer = self._weights(self.first.model, "", f"{stack}.", repeats)
        steps = {
            "before": _steps(before),
            "after": _steps(after),
            "logits": _steps([head.replaced(name="head", args=(head.args[0],)), *logits])[1:],
        }
        return Forward(
            model_type=str(self.first.model.config.model_type),  # type: ignore[union-attr]
            transformers=transformers,
            symbols=(*self.first.settings, *self.first.parts, *self.first.depths),
            shapes=tuple(self.shapes),
            root=root,
            stack=stack.removeprefix(f"{root}."),
            repeats=repeats,
            counted_before=self._counted_before(f"{stack}.", repeats),
            weights=outer,
            modules=tuple(_folded(_modules(self.first.model, leaving_out=f"{stack}."), repeats)),
            entering=entering,
            blocks=kinds,
            leaving=leaving,
            hidden=hidden,
            tokens=f"{self._path(self.first.model.get_input_embeddings())}.weight",  # type: ignore[operator]
            head=f"{self._path(self.first.model.get_output_embeddings())}.weight",  # type: ignore[operator]
            projected=head.outs[0],
            made=made,
            **steps,
        )

    def _block(self, path: str, begin: int, end: int, until: int, *, is_last: bool) -> Block:
        """The block's own program, with numbers of its own. What it returns beside its hidden state, and transformers'
        models then drop, ends with it.
        """
        entering, leaving = self.entries[begin].entering, self.entries[end].leaving
        numbers: dict[int, int] = {entering: 0}
        given: list[int] = []
        own = {v for e in self.entries[begin:end] if isinstance(e, Step) for v in e.outs}

        def renamed(arg: Any) -> Any:
            if isinstance(arg, list):
                return [renamed(item) for item in arg]
            if isinstance(arg, Value):
                if int(arg) in numbers:
                    return Value(numbers[int(arg)])
                if int(arg) not in given:
                    given.append(int(arg))
                return Given(given.index(int(arg)))
            if isinstance(arg, Weight):
                return Weight(arg.removeprefix(f"{path}.") if arg.startswith(f"{path}.") else f"/{arg}")
            return arg

        entries: list[Any] = []
        for entry in self.entries[begin + 1 : until]:
            if isinstance(entry, Step):
                if not set(entry.outs) <= own or entry.name in ("mask", "embedded"):
                    if is_last:
                        continue
                    raise NotBuildableError(f"{entry.name} between blocks")
                args = tuple(renamed(arg) for arg in entry.args)
                for out in entry.outs:
                    numbers.setdefault(out, len(numbers))
                outs = tuple(numbers[out] for out in entry.outs)
                module = entry.module.removeprefix(path).removeprefix(".")
                entries.append(entry.replaced(args=args, outs=outs, module=module))
            elif isinstance(entry, Free) and entry.value in own and entry.value not in (leaving, entering):
                entries.append(Free(numbers[entry.value]))
        freed = {entry.value for entry in entries if isinstance(entry, Free)}
        entries += [Free(numbers[v]) for v in sorted(own) if numbers[v] not in freed and v != leaving]
        before = {v for e in self.entries[: self._first_block()] if isinstance(e, Step) for v in e.outs}
        foreign = [v for v in given if v not in before and v != 0]
        if foreign:
            raise NotBuildableError(f"{path} takes more than a hidden state from other blocks: {foreign}")
        return Block(
            given=tuple(given),
            steps=_steps(entries),
            leaving=numbers[leaving],
            weights=self._weights(self.first.model.get_submodule(path), path),
            modules=tuple(_modules(self.first.model.get_submodule(path))),
        )

    # -- weights -----------------------------------------------------------------------------------------------------

    def _repeats(self, stack: str) -> dict[str, str]:
        """The lists of equal modules outside the stack, and the settings that say how many they have."""
        found: dict[str, str] = {}
        for symbol, depth in self.first.depths.items():
            for name, module in self.first.model.named_modules():
                if not isinstance(module, nn.ModuleList) or len(module) != depth or f"{name}." == stack:
                    continue
                if len({tuple((n, tuple(t.shape), t.dtype) for n, t in _tensors(child)) for child in module}) == 1:
                    found[name] = symbol
            if symbol not in found.values():
                raise NotBuildableError(f"no list of {symbol} equal modules")
        return found

    def _counted_before(self, stack: str, repeats: Mapping[str, str]) -> tuple[str, ...]:
        """The lists of modules that transformers counts before the blocks where it checkpoints every nth."""
        found: dict[str, None] = {}
        for name, module in self.first.model.named_modules():
            if name.startswith(stack):
                return tuple(found)
            if isinstance(module, GradientCheckpointingLayer):
                path = name.rpartition(".")[0]
                if path not in repeats:
                    raise NotBuildableError(f"{name} is checkpointed, and in no list of equal modules")
                found[path] = None
        return tuple(found)

    def _used(self) -> set[str]:
        """The names of the weights that operations take; of one weight with two names, both."""
        model = self.first.model
        args = [arg for entry in self.entries if isinstance(entry, Step) for arg in entry.args]
        ends = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
        return {*(str(arg) for arg in args if isinstance(arg, Weight)), *(f"{self._path(m)}.weight" for m in ends)}

    def _weights(
        self, module: nn.Module, path: str, stack: str = "", repeats: Mapping[str, str] | None = None
    ) -> dict[str, Tensors]:
        """The weights of a block at a path; or with no path those outside the stack, of equal modules the first's."""
        repeats = repeats or {}
        used = self._used() if self.first.parts and not path else None
        others = [r.model.get_submodule(path) if path else r.model for r in self.recordings]
        shapes = [{name: tuple(t.shape) for name, t in _tensors(other)} for other in others]
        linears = {f"{name}.weight" if name else "weight": m for name, m in module.named_modules() if _is_linear(m)}
        found: dict[str, Tensors] = {}
        buffers = {name for name, _ in module.named_buffers()}
        for name, tensor in _tensors(module):
            if stack and name.startswith(stack):
                continue
            folded = _folded([name], repeats)
            if not folded:
                continue
            linear = linears.get(name)
            is_unused = used is not None and name not in used
            found[folded[0]] = Tensors(
                shape=self._shape([others[name] for others in shapes], self.part_sizes if is_unused else None),
                linear=linear is not None,
                bias=linear is not None and linear.bias is not None,
                conv1d=type(linear).__name__ == "Conv1D",
                buffer=name in buffers,
                unused=is_unused,
                frozen=name not in buffers and not tensor.requires_grad,
                dtype="" if tensor.dtype is torch.bfloat16 else str(tensor.dtype).removeprefix("torch."),
            )
        return found


def _of_parts(recording: Recording) -> dict[str, int]:
    """The settings that shapes of weights outside the operations are made of."""
    shared = {
        key: recording.settings[key] for key in ("hidden_size", "head_dim", "vocab_size") if key in recording.settings
    }
    return {**shared, **recording.parts}


def _folded(names: Sequence[str], repeats: Mapping[str, str]) -> list[str]:
    """Names with "#" for the number of the first of equal modules, without those of the others."""
    found = []
    for name in names:
        stack = next((path for path in repeats if name.startswith(f"{path}.")), None)
        if stack is None:
            found.append(name)
            continue
        number, dot, rest = name.removeprefix(f"{stack}.").partition(".")
        if number == "0":
            found.append(f"{stack}.#{dot}{rest}")
    return found


def _tensors(module: nn.Module) -> list[tuple[str, Any]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _modules(module: nn.Module, leaving_out: str = "") -> list[str]:
    return [
        name
        for name, m in module.named_modules()
        if name and not _is_linear(m) and not (leaving_out and f"{name}.".startswith(leaving_out))
    ]


def _steps(entries: Sequence[Any]) -> tuple[Step, ...]:
    """Steps with what is freed after each."""
    steps: list[Step] = []
    for entry in entries:
        if isinstance(entry, Free):
            if not steps:
                steps.append(Step("nothing", (), (), (), (), "", True))
            steps[-1] = steps[-1].replaced(frees=(*steps[-1].frees, entry.value))
        else:
            steps.append(entry)
    return tuple(steps)


def _without_sizes(entry: Any) -> Any:
    if isinstance(entry, Call):
        args = repr(_masked(entry.args))
        return entry.name, args, entry.outs, entry.module, entry.lowered, tuple(map(len, entry.shapes))
    return repr(entry)


def _masked(arg: Any) -> Any:
    """An argument without what may be a size."""
    if isinstance(arg, list | tuple):
        return [_masked(item) for item in arg]
    return 0 if type(arg) in (int, float) else arg


def _types(pure: Sequence[Entry], lowered: Sequence[Entry]) -> dict[int, Type | Value]:
    """What each change of type is to, by its place: in bf16 and in fp32 under autocast it is given another type where
    that is some tensor's. The nearest in the same module counts that was cast itself, as norms and softmax cast back.
    """
    calls = [[(i, e) for i, e in enumerate(entries) if isinstance(e, Call)] for entries in (pure, lowered)]
    changes = [[(i, e) for i, e in column if e.name == "to"] for column in calls]
    if len(changes[0]) != len(changes[1]):
        raise NotBuildableError("the changes of type under autocast are others")
    pairs = _pairs(calls)
    found: dict[int, Type | Value] = {}
    for (place, a), (_, b) in zip(*changes, strict=True):
        pair = (str(a.args[1]), str(b.args[1]))
        if pair == ("float32", "float32") or pair[0] != "bfloat16":
            found[place] = Type(pair[0])
            continue
        cast = [
            e.args[0] for _, e in changes[0] if e.module == a.module and e is not a and isinstance(e.args[0], Value)
        ]
        freed = {e.value for e in pure[:place] if isinstance(e, Free)}
        near = [v for v in cast if pairs.get(v) == pair and v not in freed and v < a.outs[0]]
        found[place] = near[-1] if near else Type("weights" if pair[1] == "float32" else "lowered")
    return found


def _pairs(calls: Sequence[Sequence[tuple[int, Call]]]) -> dict[int, tuple[str, str]]:
    """The types of each value in the two recordings, as far as they run alike."""
    types = [{out: t for _, call in column for out, t in zip(call.outs, call.types, strict=True)} for column in calls]
    return {out: (str(types[0][out]), str(types[1][out])) for out in types[0].keys() & types[1].keys()}
