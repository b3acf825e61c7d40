"""Paths in files that a pull request may have written: none may lead out of the repository, links followed."""

import os
from pathlib import Path

from memplanner.errors import Problem, UserError
from memplanner.settings.errors import show


def running_in_ci() -> bool:
    """Whether this runs in continuous integration, on files that others wrote: CI services set CI."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def repository_of(folder: Path) -> Path:
    """The nearest folder above that has a .git, else the folder itself. Judged by its name: links are not followed."""
    folder = Path(os.path.abspath(folder))
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)


def path_in_repository(path: Path) -> str:
    """A file's path from its repository's top, with slashes."""
    path = Path(os.path.abspath(path))
    return path.relative_to(repository_of(path.parent)).as_posix()


def resolve_inside(root: Path, word: str, *, where: str, key: str, top: Path | None = None) -> Path:
    """The path that a file names, if it stays in the file's repository (without one: in its directory); UserError else.

    Links are followed before the path is judged. top: the directory to stay in, where it is not the repository.
    """
    try:
        path = root / Path(word).expanduser()
        if path.resolve().is_relative_to((top or repository_of(root)).resolve()):
            return path
    except (OSError, ValueError, RuntimeError):
        pass
    raise UserError(Problem(where=where, key=key, message=f"{show(word)} leads out of the repository"))


def refuse_link_in_ci(path: Path) -> None:
    """In CI, UserError where a file of the repository is a link out of it. A path typed by hand may lie anywhere."""
    if running_in_ci():
        resolve_inside(path.parent, path.name, where=str(path), key="")
