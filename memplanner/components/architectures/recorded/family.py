"""The family of a recorded program, and its settings from a model's config.json."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from memplanner.components.architectures.family import Family, Modules
from memplanner.components.architectures.recorded.model import Recorded, RecordedConfig
from memplanner.components.architectures.recorded.program import Forward
from memplanner.tape.engine import Param


class RecordedFamily(Family):
    """The family of one program."""

    forward: Forward

    def in_module_order(self, params: Sequence[Param]) -> list[Param]:
        """The parameters as named_parameters() has them."""
        prefix = f"{self.forward.stack}."
        orders = [list(block.weights) for block in self.forward.blocks.values()]

        def block_of(param: Param) -> str:
            rest = param.name.removeprefix(prefix)
            return rest.partition(".")[0] if rest != param.name else ""

        def place(param: Param) -> int:
            path = param.name.removeprefix(prefix).partition(".")[2]
            module = path.partition(".lora_")[0]
            places = [o.index(name) for o in orders for name in o if name == path or name.startswith(f"{module}.")]
            return min(places, default=-1)

        return [
            param
            for block, group in groupby(params, key=block_of)
            for param in (sorted(group, key=place) if block else group)
        ]


def modules(config: RecordedConfig) -> Modules:
    """The modules of the model by their paths."""
    forward = config.forward
    stack = f"{forward.root}.{forward.stack}"
    paths = [f"{stack}.{i}" for i in range(config.num_layers)]
    linear, others = [], []
    for path, kind in zip(paths, config.kinds, strict=True):
        block = forward.blocks[kind]
        linear += [f"{path}.{name.removesuffix('.weight')}" for name, w in block.weights.items() if w.linear]
        others += [f"{path}.{name}" for name in block.modules]
    outside = [n.removesuffix(".weight") for n, w in forward.weights.items() if w.linear and n != forward.head]
    embeddings = {s.args[0].removesuffix(".weight") for s in forward.before if s.name == "embedding"}
    return Modules(
        root=forward.root,
        stack=stack,
        blocks=tuple(paths),
        linear=(*linear, *outside),
        outside=tuple(outside),
        embeddings=tuple(sorted(embeddings)),
        head=(forward.head.removesuffix(".weight"),),
        others=(*(m for m in forward.modules if m not in embeddings and m != forward.root), *others),
    )


def family_of_program(forward: Forward, lora_targets: tuple[str, ...] | str) -> RecordedFamily:
    """The family that answers for a program. lora_targets: peft's, where a plan names none."""
    linear = dict.fromkeys(
        name.removesuffix(".weight").rpartition(".")[2]
        for block in forward.blocks.values()
        for name, w in block.weights.items()
        if w.linear
    )
    return RecordedFamily(
        name=forward.model_type,
        read=_unread,
        model=Recorded,
        modules=modules,
        lora_targets=lora_targets,
        block_targets=tuple(linear),
        tasks=("causal-lm",),
        forward=forward,
    )


def _unread(*_: Any) -> Any:
    raise AssertionError("settings of a recorded program are read with it")
