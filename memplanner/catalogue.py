"""Finds, loads and validates the files in profiles/: one card, one model or one plan per file."""

import datetime
import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from memplanner.errors import Problem, UserError
from memplanner.files.parse import parse_json, parse_toml, read_text
from memplanner.files.sandbox import profiles_dir, resolve_inside
from memplanner.frozen import Frozen
from memplanner.hub import cached_config, is_id
from memplanner.names import read_name
from memplanner.settings.base import Settings
from memplanner.settings.errors import problems_of, show

S = TypeVar("S", bound=Settings)
T = TypeVar("T", bound="GpuProfile | ModelProfile")
_EVERY_CARD = "`memplanner gpus` lists them; a size such as 24GiB works, too"
_NEAR = 3
"""The most names that a hint offers."""
_GPUS = ("gpus", ".toml")
_MODELS = ("models", ".json")


class Figure(Settings):
    """A number of bytes with the place it was read."""

    bytes: int = Field(ge=0)
    source: str
    date: datetime.date
    estimated: bool
    """No measured source was found: the figure is inferred, and says from what."""


class GpuProfile(Settings):
    """One card."""

    id: str
    """The file's stem, the name to type."""
    name: str
    aliases: tuple[str, ...] = Field(default=(), strict=False)
    vendor: str
    architecture: str
    compute_capability: str
    total: Figure
    """What PyTorch reports as total memory: what a process can get."""
    nvidia_smi: Figure
    """What nvidia-smi (rocm-smi) prints as total."""
    context: Figure
    """What a training process takes outside the caching allocator."""
    cublas_workspace: Figure
    """PyTorch's default cuBLAS workspace, allocated in the caching allocator."""


def capability_of(gpu: GpuProfile | None) -> float:
    """CUDA compute capability. 8.0, with which the flash kernel exists, stands for AMD's cards, which have it, and for
    a device given by its size, for which it is assumed.
    """
    if gpu is None or gpu.vendor != "nvidia":
        return 8.0
    return float(gpu.compute_capability)


class Published(Settings):
    """What a bundled model's file says about itself, under the key "memplanner"."""

    name: str
    aliases: tuple[str, ...] = Field(default=(), strict=False)
    parameters: int = Field(ge=1)
    source: str
    date: str
    estimated: bool
    stored: str = ""
    """The format of the published weights where they are not whole, and training makes them so (mxfp4, fp8)."""


class ModelProfile(Frozen):
    """One model: its config.json's fields as they were written, checked by nobody yet."""

    id: str
    """A bundled model's stem; for a path, the path as typed."""
    name: str
    aliases: tuple[str, ...] = ()
    config: dict[str, Any]
    """The raw fields; memplanner.components.architectures reads and checks them."""
    parameters: int | None = None
    """The parameter count that the bundled file gives, unset for a user's own config."""
    source: str
    """Where the fields come from."""
    stored: str = ""
    """Published's."""
    asked: str = ""
    """The name that was asked for, where it is none of the model's own, and its words lead to these shapes."""

    @property
    def model_type(self) -> str:
        """What config.json says, "?" where it is silent."""
        return str(self.config.get("model_type", "?"))


def key(name: str) -> str:
    """A name as it is compared: without case, spaces, '-' and '_'."""
    return "".join(name.split()).replace("-", "").replace("_", "").casefold()


@functools.cache
def stems(kind: str, suffix: str) -> tuple[str, ...]:
    """The stems of all bundled profiles of a kind ("gpus", "models", "plans"), in their order."""
    names = os.listdir(profiles_dir() / kind)
    return tuple(sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix)))


def file_of(kind: str, stem: str, suffix: str) -> Path:
    """The file of the bundled profile with one of these stems."""
    return profiles_dir() / kind / f"{stem}{suffix}"


def files(kind: str, suffix: str) -> tuple[Path, ...]:
    """The files of all bundled profiles of a kind, in the order of their stems."""
    return tuple(file_of(kind, stem, suffix) for stem in stems(kind, suffix))


_MAKERS_WORDS = re.compile(r"\b(nvidia|geforce|tesla|amd|radeon|instinct|gpu|generation|blackwell)\b", re.IGNORECASE)
"""What drivers put around the name that people type: NVIDIA GeForce RTX 4080 Laptop GPU."""


def find_gpu(name: str) -> GpuProfile:
    """The card of that name or alias, with or without its maker's words; UserError with the nearest names otherwise."""
    gpu = _find(name, *_GPUS, _gpu) or _find(_MAKERS_WORDS.sub("", name), *_GPUS, _gpu)
    if gpu is None:
        near = _nearest(name, all_gpus())
        hint = f"{near} A size such as 24GiB works, too" if near else _EVERY_CARD
        raise UserError(Problem(where="gpu", key="", message=f"no card is called {show(name)}", hint=hint))
    return gpu


def all_gpus() -> tuple[GpuProfile, ...]:
    """Every bundled card, by id."""
    return tuple(map(_gpu, files(*_GPUS)))


def find_model(name_or_path: str, root: Path = Path()) -> ModelProfile:
    """A bundled model by name or alias; else the config.json at a path (or in the directory) relative to root; else
    that of a model in the local Hugging Face cache; else the bundled model whose shapes the name stands for.
    """
    exact = _by_stem(name_or_path, *_MODELS)
    if exact is not None:
        return _model(exact)
    explicit = name_or_path.endswith(".json") or name_or_path.startswith((".", "/", "~"))
    try:
        path = root / Path(name_or_path).expanduser()
        directory = path.is_dir()
        if explicit or path.is_file() or (directory and (path / "config.json").is_file()):
            return _own_model(name_or_path, path / "config.json" if directory else path)
    except (OSError, ValueError, RuntimeError):
        pass  # not a path this system can look up: then it can only be a name
    model = bundled_model(name_or_path)
    if model is None and (cached := cached_config(name_or_path)) is not None:
        return _own_model(name_or_path, cached).replaced(name=name_or_path)
    model = model or model_by_words(name_or_path)
    if model is None:
        hint = _nearest(name_or_path, all_models())
        either = "`memplanner models` lists the bundled ones; the path of a config.json works too"
        if is_id(name_or_path):
            hint = f"{hint} `memplanner fetch` brings the config.json of a model on the hub".strip()
        raise UserError(
            Problem(
                where="model", key="", message=f"no model or file is called {show(name_or_path)}", hint=hint or either
            )
        )
    return model


def bundled_model(name: str) -> ModelProfile | None:
    """The bundled model of that name or alias, never a file of the user's; None where there is none."""
    return _find(name, *_MODELS, _model)


def model_by_words(name: str) -> ModelProfile | None:
    """The bundled model that has the shapes of a model with this name, by the name's words; None where there is none.

    Weights that are stored quantised have the quantization_config that is assumed of such a name. UserError where their
    format is one that is not modelled, or that nothing is assumed of.
    """
    read = read_name(name)
    found = None if read is None else next(filter(None, map(_by_shapes().get, read.shapes)), None)
    if read is None or found is None:
        return None
    model = _model(file_of("models", found, ".json"))
    if read.stored and read.quantization_config is None:
        why = "its name does not say how each of its layers is" if "bnb" in read.stored else "that is not modelled"
        message = f"{show(name)} is stored quantised ({read.stored}), and {why}"
        hint = f"{model.id!r} has its shapes; --quantization chooses a format for its weights"
        raise UserError(Problem(where="model", key="", message=message, hint=hint))
    config = model.config | ({"quantization_config": read.quantization_config} if read.stored else {})
    return model.replaced(config=config, asked=name)


@functools.cache
def _by_shapes() -> dict[str, str]:
    """The bundled model's id by what all names of its shapes have in common, where that is one model's alone."""
    ids: dict[str, set[str]] = {}
    for model in all_models():
        for spelling in (model.id, model.name, *model.aliases):
            read = read_name(spelling)
            if read is not None:
                ids.setdefault(read.shapes[0], set()).add(model.id)
    return {shapes: next(iter(found)) for shapes, found in ids.items() if len(found) == 1}


def all_models() -> tuple[ModelProfile, ...]:
    """Every bundled model, by id."""
    return tuple(map(_model, files(*_MODELS)))


def models_with(word: str) -> tuple[ModelProfile, ...]:
    """The bundled models with the word in a name or in their type; UserError where there are none."""
    wanted = word.casefold()
    found = tuple(
        model
        for model in all_models()
        if any(wanted in text.casefold() for text in (model.id, model.name, *model.aliases, model.model_type))
    )
    if not found:
        hint = _nearest(word, all_models()) or "`memplanner models` lists them all"
        message = f"no bundled model has {show(word)} in a name or in its type"
        raise UserError(Problem(where="models", key="", message=message, hint=hint))
    return found


@functools.lru_cache(maxsize=1024)
def _by_stem(name: str, kind: str, suffix: str) -> Path | None:
    wanted = key(name)
    return next((file_of(kind, stem, suffix) for stem in stems(kind, suffix) if key(stem) == wanted), None)


def is_bundled(model: str) -> bool:
    """Whether a model is a bundled file's, by its stem."""
    return _by_stem(model, *_MODELS) is not None


def _find(name: str, kind: str, suffix: str, load: Callable[[Path], T]) -> T | None:
    """By stem, else by the name and aliases inside the files."""
    exact = _by_stem(name, kind, suffix)
    return _by_alias(key(name), kind, suffix, load) if exact is None else load(exact)


@functools.lru_cache(maxsize=1024)
def _by_alias(wanted: str, kind: str, suffix: str, load: Callable[[Path], T]) -> T | None:
    """The profile with that name or alias, as a key. Bundled files do not change while a process runs, so that they are
    searched once for each name. Only files that mention it are parsed.
    """
    for path in files(kind, suffix) if wanted else ():
        if wanted in key(read_text(path)):
            profile = load(path)
            if wanted in (key(profile.name), *map(key, profile.aliases)):
                return profile
    return None


def _nearest(wanted: str, profiles: Sequence[GpuProfile] | Sequence[ModelProfile]) -> str:
    """The profiles that the name is the beginning or a part of a spelling of, where these are few, then those with near
    spellings. Spellings are compared as keys, so that "RTX 4091" finds "rtx4090".
    """
    typed = key(wanted)
    spelt = [
        (key(spelling), profile.id) for profile in profiles for spelling in (profile.id, profile.name, *profile.aliases)
    ]
    beginning = dict.fromkeys(name for spelling, name in spelt if typed and spelling.startswith(typed))
    longer = beginning or dict.fromkeys(name for spelling, name in spelt if typed and typed in spelling)
    import difflib  # for an error only

    by_key = dict(reversed(spelt))
    close = [by_key[match] for match in difflib.get_close_matches(typed, list(by_key), n=_NEAR, cutoff=0.6)]
    found = list(dict.fromkeys([*(longer if len(longer) <= _NEAR else ()), *close]))[:_NEAR]
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""


def _own_model(name: str, path: Path) -> ModelProfile:
    config = parse_json(read_text(path), path)
    config.pop("memplanner", None)
    own = path.parent.name if path.name == "config.json" else path.name  # the model's name is its folder's
    return ModelProfile(id=name, name=own or name, config=config, source=str(path))


def _checked(cls: type[S], table: object, path: Path) -> S:
    try:
        return cls.model_validate(table)
    except ValidationError as error:
        raise UserError(*problems_of(error, cls, lambda keys: (str(path), ".".join(keys)))) from None


@functools.cache
def _gpu(path: Path) -> GpuProfile:
    return _checked(GpuProfile, {"id": path.stem, **parse_toml(read_text(path), path)}, path)


@functools.cache
def _model(path: Path) -> ModelProfile:
    config = parse_json(read_text(path), path)
    about = _checked(Published, config.pop("memplanner", {}), path)
    return ModelProfile(
        id=path.stem,
        name=about.name,
        aliases=about.aliases,
        config=config,
        parameters=about.parameters,
        source=about.source,
        stored=about.stored,
    )


def model_inside(root: Path, model: str, *, where: str) -> None:
    """UserError where a plan names a model by a path that leads out of the repository, by its config.json too."""
    if not is_bundled(model):
        for path in (model, f"{model}/config.json"):
            resolve_inside(root, path, where=where, key="model")
