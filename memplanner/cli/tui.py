"""memplanner tui: the terminal interface."""

import argparse
import gc
import os
import shlex
import sys
from pathlib import Path

from memplanner.cli.argument_types import integer
from memplanner.cli.main import Answer, on_a_terminal
from memplanner.cli.plan_arguments import add_plan_flags, typed_flags
from memplanner.errors import Problem, UserError
from memplanner.plan.flags import MODEL, command_words
from memplanner.report.terminal import Page


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument(
        "model", nargs="?", default="", metavar="MODEL", help="a bundled model's name, or the path of a config.json"
    )
    parser.add_argument("--plan", default="", metavar="FILE", help="the plan to begin with, as for check")
    parser.add_argument("--records", default="", metavar="DIR", help="recorded runs to show, and where to add new ones")
    parser.add_argument("--web", action="store_true", help="serve it to a browser on this machine instead")
    parser.add_argument(
        "--port",
        default=8000,
        type=integer("--port", "a port from 1 to 65535", least=1, most=65535),
        metavar="N",
        help="with --web: the port (default: 8000)",
    )
    add_plan_flags(parser, described=described)


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    gc.enable()  # it lives for long
    if args.web:
        return _serve(args)
    from memplanner.tui.state import start

    state = start(root, plan_file=args.plan, model=args.model, flags=typed_flags(args))
    if not (on_a_terminal() or "TEXTUAL_DRIVER" in os.environ):  # which Textual's server sets for what it shows
        raise UserError(
            Problem(
                where="memplanner tui",
                key="",
                message="needs a terminal",
                hint="memplanner tui --web shows it in a browser",
            )
        )
    from memplanner.tui.app import MemplannerApp

    folder = Path(args.records) if args.records else None
    if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(Problem(where="--records", key="", message=f"{args.records!r} is not a directory"))
    MemplannerApp(state, records=folder).run()
    return Answer(text="")


def _serve(args: argparse.Namespace) -> Answer:
    """Textual's own server: the app runs here, the browser shows it. It listens on this machine alone."""
    try:
        from textual_serve.server import Server
    except ModuleNotFoundError:
        hint = "pip install 'memplanner[web]'"
        raise UserError(Problem(where="--web", key="", message="needs textual-serve", hint=hint)) from None
    typed = {MODEL: args.model, "--plan": args.plan, "--records": args.records}
    typed = {name: text for name, text in typed.items() if text} | typed_flags(args)
    words = [sys.executable, "-m", "memplanner", "tui", *command_words(typed)]
    Server(shlex.join(words), host="localhost", port=args.port, title="memplanner").serve()
    return Answer(text="")
