"""Paths in files that a pull request may have written: none may lead out of the repository, links followed."""

import os
from pathlib import Path

from memplanner.errors import Problem, UserError
from memplanner.settings.errors import show


def in_a_build() -> bool:
    """Whether this runs in continuous integration, where the files are other people's: CI is set, as builds set it."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def top_of(folder: Path) -> Path:
    """The nearest folder above that has a .git, else the folder itself. By its name: links are not followed."""
    folder = Path(os.path.abspath(folder))
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)


def from_top(path: Path) -> str:
    """A file's path from its repository's top, with slashes."""
    path = Path(os.path.abspath(path))
    return path.relative_to(top_of(path.parent)).as_posix()


def inside(root: Path, word: str, *, where: str, key: str, top: Path | None = None) -> Path:
    """A path that a file names, if it stays in the file's repository (or, without one, its directory); UserError else.

    Links are followed before the path is judged. top: what it is to stay in instead.
    """
    try:
        path = root / Path(word).expanduser()
        if path.resolve().is_relative_to((top or top_of(root)).resolve()):
            return path
    except (OSError, ValueError, RuntimeError):
        pass
    raise UserError(Problem(where=where, key=key, message=f"{show(word)} leads out of the repository"))


def kept_inside(path: Path) -> None:
    """In a build, UserError where a file of the repository is a link out of it; what is typed may lie anywhere."""
    if in_a_build():
        inside(path.parent, path.name, where=str(path), key="")
