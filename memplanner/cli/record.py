"""memplanner record: the forward pass of a type of model, from which plans are then answered without torch."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from memplanner.catalogue import all_models, find_model
from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import Answer
from memplanner.errors import Problem, UserError
from memplanner.files.write import check_writable, write_text
from memplanner.prediction.recorded import own_path, recording_name
from memplanner.report.record_text import Difference, Recording
from memplanner.report.terminal import Page
from memplanner.report.writers import RECORD

_TYPE: Final = re.compile(r"[a-z0-9_-]{1,100}")
"""What a model type may be called."""


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument(
        "model",
        metavar="TYPE|MODEL",
        help="a model type of transformers, such as olmo2, a model's name or its config.json",
    )
    parser.add_argument(
        "--to",
        default="",
        metavar="FOLDER",
        help="where the file is written (default: the user's cache directory, where every command finds it)",
    )
    parser.add_argument("--format", choices=RECORD.formats, default="text", help="how the answer is written")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    configs = _configs(args.model, root)
    path = _path(args.to, recording_name(configs[0]), root)
    check_writable(path)
    try:
        from memplanner.harness.forward import made
    except ModuleNotFoundError as error:
        message = f"needs {error.name}, which is not installed"
        hint = "pip install 'memplanner[live]'"
        raise UserError(Problem(where="record", key="", message=message, hint=hint)) from None

    text, recorded, sources = made.made(configs, args.model)
    found = [*made.differences(recorded, sources)]
    holds = all(difference.holds for difference in found)
    if holds:
        write_text(path, text)
    answer = Recording(
        model_type=str(recorded.table["model_type"]),
        transformers=recorded.transformers,
        torch=str(recorded.table["torch"]),
        programs=len(sources),
        differences=tuple(
            Difference(plan=d.plan, worst=d.worst, phase=d.phase, kept=d.kept, holds=d.holds) for d in found
        ),
        path=str(path) if holds else "",
    )
    return Answer(text=RECORD.write(args.format, answer, page), code=ExitCode.OK if holds else ExitCode.DOES_NOT_FIT)


def _configs(model: str, root: Path) -> Sequence[Mapping[str, Any]]:
    """The config.jsons to record: a model's, or for a type those of the bundled models of it."""
    try:
        return [find_model(model, root).config]
    except UserError:
        if _TYPE.fullmatch(model) is None:
            raise
    configs = [profile.config for profile in all_models() if profile.model_type == model] or [{"model_type": model}]
    return [config for config in configs if recording_name(config) == recording_name(configs[0])]


def _path(folder: str, name: str, root: Path) -> Path:
    if folder:
        return root / Path(folder).expanduser() / f"{name}.json"
    path = own_path(name)
    if path is None:
        message = f"nothing is kept in continuous integration of {name}"
        raise UserError(Problem(where="record", key="", message=message, hint="--to FOLDER writes it there"))
    return path
