"""memplanner tui: the terminal interface."""

import argparse
import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import memplanner
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
    from memplanner.tui.state import start

    state = start(root, plan_file=args.plan, model=args.model, flags=typed_flags(args))
    folder = Path(args.records) if args.records else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(Problem(where="--records", key="", message=f"{args.records!r} is not a directory"))
    if args.web:
        return _serve(args)
    if not (on_a_terminal() or "TEXTUAL_DRIVER" in os.environ):  # which the server sets for what it shows
        raise UserError(
            Problem(
                where="memplanner tui",
                key="",
                message="needs a terminal",
                hint="memplanner tui --web shows it in a browser",
            )
        )
    from memplanner.tui.app import MemplannerApp

    MemplannerApp(state, records=folder).run()
    return Answer(text="")


_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from memplanner.cli.main import main; sys.exit(main())"
"""An app process. Unlike `python -m`, it imports nothing from the folder it is started in, which may be anybody's."""


def _serve(args: argparse.Namespace) -> Answer:
    """The app runs here, a browser on this machine shows it."""
    if not all(map(find_spec, ("aiohttp", "textual_serve"))):
        hint = "pip install 'memplanner[web]'"
        raise UserError(Problem(where="--web", key="", message="needs textual-serve", hint=hint))
    from memplanner.tui.web.server import serve

    typed = {MODEL: args.model, "--plan": args.plan, "--records": args.records}
    typed = {name: text for name, text in typed.items() if text} | typed_flags(args)
    above = str(Path(memplanner.__file__).parent.parent)
    serve([sys.executable, "-P", "-c", _PROGRAM, above, "tui", *command_words(typed)], args.port, _say)
    return Answer(text="")


def _say(address: str) -> None:
    print(f"memplanner: {address}\nWhoever has this address can use the planner and write below this folder.", end=" ")
    print("Ctrl-C ends it.", flush=True)
