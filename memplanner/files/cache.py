"""What memplanner keeps in the user's cache directory: traced steps, and forward passes that the user recorded."""

from pathlib import Path

from memplanner.files.sandbox import running_in_ci


def kept_path(folder: str, name: str) -> Path | None:
    """A file in a folder of the cache directory; None in continuous integration, which keeps and finds nothing."""
    if running_in_ci():
        return None
    from platformdirs import user_cache_path

    return user_cache_path("memplanner") / folder / name
