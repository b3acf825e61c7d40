"""memplanner fetch: a model's config.json, from the Hugging Face hub."""

import argparse
from pathlib import Path

from memplanner.cli.main import Answer
from memplanner.files.parse import read_text
from memplanner.files.write import write_text
from memplanner.hub import fetch_config
from memplanner.plan.flags import command_line
from memplanner.report.terminal import Page


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument("model", metavar="ID", help="a model's id on the hub, such as Qwen/Qwen3-8B")
    parser.add_argument(
        "--to",
        default="",
        metavar="FOLDER",
        help="write config.json there as well (default: into the local Hugging Face cache alone)",
    )


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    path, model = fetch_config(args.model), args.model
    if args.to:
        kept = root / Path(args.to).expanduser() / "config.json"
        write_text(kept, read_text(path))
        path = kept
        model = args.to if args.to.startswith((".", "/", "~")) else f"./{args.to}"
    return Answer(text=f"{path}\nAsk about it with: {command_line(['memplanner', 'check', model])}\n")
