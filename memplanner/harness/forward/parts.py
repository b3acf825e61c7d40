"""What a model has beside its language model, such as a tower for images, which a batch of text does not run."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from memplanner.harness.errors import NotBuildableError

PART_SIZES: Final = ("hidden_size", "embed_dim", "intermediate_size", "out_hidden_size")
"""The settings of a part that sizes of its weights are made of."""
DEPTHS: Final = ("depth", "num_hidden_layers")
"""The names of the setting that says how many blocks a part has."""
_UNIT: Final = 192
"""What the number of heads of every part divides."""
_PRIMES: Final = ((41, 43, 47), (53, 59, 61), (67, 71, 73), (79, 83, 89))


def parts_of(config: Any) -> dict[str, Any]:
    """transformers' configs of the parts of a model, by their keys; config: of the whole."""
    found = {key: getattr(config, key, None) for key in config.sub_configs if key != "text_config"}
    return {key: part for key, part in found.items() if part is not None}


def in_recording(config: Any, place: int) -> dict[str, dict[str, Any]]:
    """The settings of each part in one of the recordings. Each part has another number of blocks."""
    return _sized(config, 5, lambda symbol: _PRIMES[symbol][place])


def in_small_model(config: Any) -> dict[str, dict[str, Any]]:
    """The settings of each part in a model in whose trace every tensor can be told."""
    return _sized(config, 2, lambda symbol: 2 + symbol)


def _sized(config: Any, fewest: int, unit: Callable[[int], int]) -> dict[str, dict[str, Any]]:
    found = {}
    for number, (key, part) in enumerate(parts_of(config).items()):
        settings = part.to_dict()
        own: dict[str, Any] = {"model_type": part.model_type, depth_name(key, settings): fewest + 2 * number}
        for symbol, name in enumerate(PART_SIZES):
            if isinstance(settings.get(name), int):
                own[name] = _UNIT * unit(symbol)
        found[key] = own
    return found


def depth_name(key: str, settings: Mapping[str, Any]) -> str:
    """The name of the setting that says how many blocks a part has; NotBuildableError where there is none."""
    name = next((name for name in DEPTHS if name in settings), None)
    if name is None:
        raise NotBuildableError(f"{key} does not say how many blocks there are")
    return name


def symbol_of(key: str, name: str) -> str:
    """What a setting of a part is called among those that sizes are made of."""
    return f"{key.removesuffix('_config')}_{'depth' if name in DEPTHS else name}"


def tokens_within(config: Any) -> dict[str, int]:
    """The settings that are a token's number, as a small vocabulary has them; config: of the whole."""
    names = (key for key, value in config.to_dict().items() if isinstance(value, int))
    return {name: 1 for name in names if name.endswith(("_token_id", "_token_index"))}


def rotary(text: Any, head_dim: int) -> dict[str, Any]:
    """Settings of a language model's rotary embedding that fit another width of a head, which multiples of 32 are:
    frequencies of time, height and width, where there are such.
    """
    rope = getattr(text, "rope_parameters", None) or {}
    if "rope_type" not in rope:
        return {}
    return {"rope_parameters": {**rope, "mrope_section": [share * head_dim // 32 for share in (6, 5, 5)]}}
