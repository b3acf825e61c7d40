"""Which modules target_modules and rank_pattern mean, as peft reads them (peft/tuners/tuners_utils.py,
check_target_module_exists; peft/utils/other.py, get_pattern_key).

peft passes over what matches nothing as long as something else does match. Here that is an error: it is a slip of the
hand, or a config for another model, and the figures would be for something else than was meant.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NoReturn

from memplanner.components.methods.patterns import TooMuchWorkError, Work, is_name, matches_end, matches_whole
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


def first_match(patterns: Iterable[str], path: str, work: Work) -> str | None:
    """The first of rank_pattern's keys that matches the path."""
    return next((pattern for pattern in patterns if matches_end(pattern, path, work)), None)


def ranks_of(
    targets: tuple[str, ...] | str,
    rank_pattern: Mapping[str, int],
    rank: int,
    modules: "Modules",
    *,
    blocks_only: bool,
) -> dict[str, int]:
    """The rank of every linear layer that is a target, by its path; UserError where a target or a key matches nothing,
    or a target something that is no such layer. blocks_only: leave out those in no block.
    """
    work = Work()
    key = "target_modules"
    try:
        _check_targets(targets, modules, work)
        key = "rank_pattern"
        _check_ranks(rank_pattern, modules, work)
        chosen = [path for path in modules.linear if is_matched(targets, path, work)]
        if blocks_only:
            chosen = [path for path in chosen if path not in modules.outside]
        keys = ((path, first_match(rank_pattern, path, work)) for path in chosen)
        return {path: rank if key is None else rank_pattern[key] for path, key in keys}
    except TooMuchWorkError:
        value = targets if key == "target_modules" else ", ".join(p for p in rank_pattern if not is_name(p))
        _refuse(key, f"{show(value)} takes too long to match with the model's modules", "name them")


def _check_targets(targets: tuple[str, ...] | str, modules: "Modules", work: Work) -> None:
    for target in (targets,) if isinstance(targets, str) else targets:
        if target == ALL_LINEAR:
            continue
        one = targets if isinstance(targets, str) else (target,)
        other = next((path for path in modules.others if is_matched(one, path, work)), None)
        if other is not None:
            message = f"{show(target)} matches {other}, where adapters and projections are not modelled"
            _refuse("target_modules", message, f"linear layers are: {', '.join(_names(modules))}")
        if not any(is_matched(one, path, work) for path in modules.linear):
            message = f"{show(target)} matches no linear layer of the model"
            if isinstance(targets, str) and is_name(targets) and any(ends_in(p, targets) for p in modules.linear):
                _refuse("target_modules", f"{message}: a text is a pattern for whole paths", f"a name is ['{targets}']")
            _refuse("target_modules", message, _nearest(target, modules))


def _check_ranks(patterns: Iterable[str], modules: "Modules", work: Work) -> None:
    """That every key matches a module, whether or not it is a target."""
    for pattern in patterns:
        if not any(matches_end(pattern, path, work) for path in (*modules.linear, *modules.others)):
            _refuse("rank_pattern", f"{show(pattern)} matches no module of the model", _nearest(pattern, modules))


def _names(modules: "Modules") -> list[str]:
    """The last parts of the linear layers' paths."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path in modules.linear))


def _nearest(name: str, modules: "Modules") -> str:
    """The nearest name, or path where a path was given; all names where none is near."""
    names = _names(modules)
    close = nearest(name, modules.linear if "." in name and is_name(name) else names, limit=1)
    return close or f"its modules: {', '.join(names)}, as in {modules.linear[0]}"


def _refuse(key: str, message: str, hint: str) -> NoReturn:
    raise UserError(Problem(where="plan", key=f"method.{key}", message=message, hint=hint))
