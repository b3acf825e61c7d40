"""Which modules target_modules, rank_pattern and modules_to_save mean, as peft reads them
(peft/tuners/tuners_utils.py, check_target_module_exists; peft/utils/other.py, get_pattern_key and _set_trainable).

peft passes over what matches nothing as long as something else does match. Here that is an error: it is a slip of the
hand, or a config for another model, and the figures would be for something else than was meant.
"""

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NoReturn

from memplanner.components.methods.patterns import EndNames, TooMuchWorkError, Work, is_name, matches_end, matches_whole
from memplanner.errors import Problem, UserError, nearest
from memplanner.settings.errors import show

if TYPE_CHECKING:
    from memplanner.components.architectures.family import Modules

ALL_LINEAR: Final = "all-linear"


def ends_in(path: str, name: str) -> bool:
    """Whether a dotted path is the name, or ends in it after a dot."""
    return path == name or path.endswith(f".{name}")


def is_matched(targets: tuple[str, ...] | str, path: str, work: Work) -> bool:
    """Whether a linear layer's path is one of the targets: a pattern, or names."""
    if isinstance(targets, str):
        return matches_whole(targets, path, work)
    return any(name == ALL_LINEAR or ends_in(path, name) for name in targets)


class RankKeys:
    """rank_pattern's keys, in their order, of which the first that matches a path counts."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.order = {pattern: place for place, pattern in enumerate(patterns)}
        self.names = EndNames(self.order)
        self.others = tuple(pattern for pattern in self.order if not is_name(pattern))

    def first(self, path: str, work: Work) -> str | None:
        """The key that counts for the path, if any."""
        name = min(self.names.of(path, work), key=self.order.__getitem__, default=None)
        before = (other for other in self.others if name is None or self.order[other] < self.order[name])
        return next((other for other in before if matches_end(other, path, work)), name)


@functools.lru_cache(maxsize=16)
def rank_keys(patterns: tuple[str, ...]) -> RankKeys:
    """The same keys, as they are asked about for every layer of a model."""
    return RankKeys(patterns)


def ranks_of(
    targets: tuple[str, ...] | str,
    rank_pattern: Mapping[str, int],
    rank: int,
    modules: "Modules",
    *,
    blocks_only: bool,
    adapts_all: bool,
    modules_to_save: tuple[str, ...] = (),
    copied: frozenset[str] = frozenset(),
) -> dict[str, int]:
    """The rank of every module that is a target, by its path; UserError where a target or a key matches nothing, or a
    target something that the method cannot act on. blocks_only: leave out linear layers in no block. adapts_all:
    embeddings and the output projection can be targets, though no word for all linear layers means them.
    modules_to_save: names of what is trained whole, of which nothing is a target; copied: all that this comes to.
    """
    work = Work()
    key = "target_modules"
    can_be = (*modules.linear, *modules.head, *modules.embeddings) if adapts_all else modules.linear
    passed_over = {path for path in modules.all if _is_in(path, modules_to_save)} | {*modules.classifier}
    linear = frozenset(modules.linear)
    try:
        _check_targets(targets, modules, can_be, passed_over, work)
        key = "rank_pattern"
        _check_ranks(rank_pattern, modules, work)
        if adapts_all and not modules.guards_head and not _is_in(modules.classifier[0], modules_to_save):
            _check_head(targets, modules.classifier[0], work)
        chosen = [path for path in can_be if path not in passed_over and _is_target(targets, path, linear, work)]
        if blocks_only:
            chosen = [path for path in chosen if path not in modules.outside]
        if not chosen:
            _refuse("target_modules", f"{show(targets)} matches only modules that are trained whole", _names_of(can_be))
        both = next((path for path in chosen if path in copied), None)
        if both is not None:
            message = f"a name ends {both} or what it is in, and peft copies no module with adapters"
            _refuse("modules_to_save", message, "give the names between two dots whole")
        keys = rank_keys(tuple(rank_pattern))
        firsts = ((path, keys.first(path, work)) for path in chosen)
        return {path: rank if first is None else rank_pattern[first] for path, first in firsts}
    except TooMuchWorkError:
        value = targets if key == "target_modules" else ", ".join(p for p in rank_pattern if not is_name(p))
        _refuse(key, f"{show(value)} takes too long to match with the model's modules", "name them")


def _is_target(targets: tuple[str, ...] | str, path: str, linear: frozenset[str], work: Work) -> bool:
    if isinstance(targets, str):
        return matches_whole(targets, path, work)
    return any(ends_in(path, name) or (name == ALL_LINEAR and path in linear) for name in targets)


def _check_head(targets: tuple[str, ...] | str, head: str, work: Work) -> None:
    """That no target means the new head, of which peft then wraps the adapter in a copy, and fails."""
    every = targets in (ALL_LINEAR, (ALL_LINEAR,))
    if every or _is_target(targets, head, frozenset(), work):
        message = f"{show(ALL_LINEAR if every else targets)} matches {head}, which peft trains as a copy"
        _refuse("target_modules", message, f"modules_to_save ['{head}'] leaves it out")


def _is_in(path: str, names: tuple[str, ...]) -> bool:
    """Whether a path has one of the names among its parts, or parts that follow each other."""
    return any(f".{name}." in f".{path}." for name in names)


def copied_modules(names: tuple[str, ...], modules: "Modules") -> frozenset[str]:
    """The modules that are trained as copies: those whose paths end in one of the names, at a dot or within a part
    (peft/utils/other.py, _set_trainable), a classifier's head, and all that is in them; UserError where a name matches
    nothing, or something that peft does not copy.
    """
    key, roots = "modules_to_save", {*modules.classifier[:1]}
    for name in names:
        found = [path for path in modules.all if path.endswith(name)]
        if not found:
            paths = "." in name
            close = nearest(name, modules.all if paths else list(_last_parts(modules.all)), limit=1)
            hint = close or f"such as {', '.join(_last_parts((*modules.head, *modules.embeddings, *modules.linear)))}"
            _refuse(key, f"{show(name)} matches no module of the model", hint)
        whole = next(
            (path for path in found if f"{modules.stack}.".startswith(f"{path}.") or path in modules.blocks), ""
        )
        if whole:
            _refuse(
                key, f"{show(name)} matches {whole}: copies of whole blocks are not modelled", "name what is in them"
            )
        inside = next((part for part in _IN_ADAPTERS if part.endswith(name)), "")
        if inside:
            _refuse(
                key,
                f"{show(name)} matches {inside} in every adapter too, whose copies are not modelled",
                "give a longer end of the path",
            )
        roots |= {*found}
    nested = next((path for path in sorted(roots) if _parents(path) & roots), None)
    if nested is not None:
        outer = next(iter(_parents(nested) & roots))
        _refuse(key, f"the names mean both {outer} and {nested}, which is in it", "name one of them by its path")
    return frozenset(path for path in modules.all if path in roots or _parents(path) & roots)


_IN_ADAPTERS: Final = (
    *("base_layer", "lora_dropout", "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"),
    *("lora_magnitude_vector", "default"),
)
"""Modules of peft's layers (peft/tuners/lora/layer.py, LoraLayer), which names are matched with as well."""


def _parents(path: str) -> set[str]:
    """The modules that a module is in."""
    parts = path.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))}


def _check_targets(
    targets: tuple[str, ...] | str, modules: "Modules", can_be: tuple[str, ...], passed_over: set[str], work: Work
) -> None:
    possible, linear = frozenset(can_be), frozenset(modules.linear)
    kinds = "linear layer" if possible == linear else "linear layer or embedding"
    for target in (targets,) if isinstance(targets, str) else targets:
        if target == ALL_LINEAR:
            continue
        one = targets if isinstance(targets, str) else (target,)
        matched = [path for path in modules.all if _is_target(one, path, linear, work)]
        other = next((path for path in matched if path not in possible and path not in passed_over), None)
        if other is not None:
            message = f"{show(target)} matches {other}, where adapters and projections are not modelled"
            _refuse("target_modules", message, f"{kinds}s are: {', '.join(_last_parts(can_be))}")
        if not matched or (possible == linear and not linear.intersection(matched)):
            message = f"{show(target)} matches no {kinds} of the model"
            if isinstance(targets, str) and is_name(targets) and any(ends_in(p, targets) for p in can_be):
                _refuse("target_modules", f"{message}: a text is a pattern for whole paths", f"a name is ['{targets}']")
            _refuse("target_modules", message, _nearest(target, can_be))


def _check_ranks(patterns: Collection[str], modules: "Modules", work: Work) -> None:
    """That every key matches a module, whether or not it is a target."""
    names = EndNames(patterns)
    found = {name for path in modules.all for name in names.of(path, work)}
    for pattern in patterns:
        if pattern not in found and (
            is_name(pattern) or not any(matches_end(pattern, path, work) for path in modules.all)
        ):
            message = f"{show(pattern)} matches no module of the model"
            _refuse("rank_pattern", message, _nearest(pattern, (*modules.linear, *modules.head, *modules.embeddings)))


def _last_parts(paths: Iterable[str]) -> tuple[str, ...]:
    """The last parts of paths, each once."""
    return tuple(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _names_of(paths: tuple[str, ...]) -> str:
    return f"its modules: {', '.join(_last_parts(paths))}, as in {paths[0]}"


def _nearest(name: str, paths: tuple[str, ...]) -> str:
    """The nearest name, or path where a path was given; all names where none is near."""
    close = nearest(name, paths if "." in name and is_name(name) else _last_parts(paths), limit=1)
    return close or _names_of(paths)


def _refuse(key: str, message: str, hint: str) -> NoReturn:
    raise UserError(Problem(where="plan", key=f"method.{key}", message=message, hint=hint))
