"""The Hugging Face hub: what its local cache has, which needs no network, and a config.json that is fetched from it."""

import re
from pathlib import Path
from typing import Final, NoReturn

from memplanner.errors import Problem, UserError
from memplanner.files.parse import parse_json, read_text
from memplanner.files.sandbox import running_in_ci
from memplanner.settings.errors import show

_ID: Final = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
_FILE: Final = "config.json"


def is_id(name: str) -> bool:
    """Whether a name can be a model's on the hub, with its owner's."""
    return _ID.fullmatch(name) is not None


def cached_config(name: str) -> Path | None:
    """The config.json of a hub id in the local cache, where huggingface_hub is installed and has it. Never in
    continuous integration, where answers depend on the repository alone.
    """
    if running_in_ci() or not is_id(name):
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


def fetch_config(name: str) -> Path:
    """The config.json of a hub id, brought from the hub (or from what HF_ENDPOINT names) into the local cache: the one
    thing in memplanner that uses a network. UserError where it does not come, or is no JSON object, and in continuous
    integration.
    """
    if running_in_ci():
        _refuse(
            name, "nothing is fetched in continuous integration (CI is set)", "keep the config.json in the repository"
        )
    if not is_id(name):
        _refuse(name, "is not an id on the hub", "such as Qwen/Qwen3-8B")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        _refuse(name, "to fetch it, huggingface_hub has to be installed", "pip install 'memplanner[hub]'")
    try:
        path = Path(hf_hub_download(name, _FILE))
    except Exception as error:  # of the library, of HTTP, of sockets and files
        _refuse(name, f"cannot be fetched: {type(error).__name__}: {_first_line(error)}", "")
    parse_json(read_text(path), path)
    return path


def _first_line(error: Exception) -> str:
    return next(filter(None, map(str.strip, str(error).splitlines())), "no reason given")


def _refuse(name: str, message: str, hint: str) -> NoReturn:
    raise UserError(Problem(where="fetch", key="", message=f"{show(name)}: {message}", hint=hint))
