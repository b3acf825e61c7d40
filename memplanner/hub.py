"""The Hugging Face hub: what its local cache has, which needs no network, and a config.json that is fetched from it."""

import re
from pathlib import Path
from typing import Final

from memplanner.files.sandbox import running_in_ci

_ID: Final = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_FILE: Final = "config.json"


def cached_config(name: str) -> Path | None:
    """The config.json of a hub id in the local cache, where huggingface_hub is installed and has it. Never in a
    continuous integration, where answers depend on the repository alone.
    """
    if running_in_ci() or _ID.fullmatch(name) is None:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        path = try_to_load_from_cache(name, _FILE)
    except (HFValidationError, OSError, ValueError):
        return None
    return Path(path) if isinstance(path, str) else None
