"""Finds the command, runs it, prints its answer or its errors, and returns the exit code. Nothing else prints."""

import argparse
import atexit
import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NoReturn, Protocol, TextIO, cast

from memplanner.cli.exit_code import ExitCode
from memplanner.errors import Problem, UserError, nearest, shorten
from memplanner.files.sandbox import Gate, gated, running_in_ci
from memplanner.frozen import Frozen
from memplanner.report.terminal import Page, is_size, page_for

COMMANDS = {
    "tui": "the terminal interface; bare `memplanner` on a terminal opens it too",
    "check": "does this run fit, where is its peak, and what would make it fit",
    "lock": "write down what every named plan needs, for `check --all --locked` to hold them to",
    "diff": "what two plans, lock files or revisions differ by, and which settings moved it",
    "explain": "the picture of the step and the largest tensors at its peak, each with its formula",
    "fit": "the largest rank, batch or sequence that a card holds",
    "sweep": "every combination of several ranks, batches, cards: what fits, as a table, CSV, JSON or a picture",
    "compare": "training methods and ranks side by side, everything else equal",
    "profile": "run a plan's real steps on this machine, or on fake tensors, and record where the memory went",
    "validate": "predictions beside measurements and traces, with the error of every figure",
    "gpus": "the cards that memplanner knows",
    "models": "the models that come with memplanner",
    "fetch": "a model's config.json from the Hugging Face hub: the only command that uses a network",
    "record": "a model type's forward pass, recorded once with torch, and answered from without it",
    "schema": "the JSON Schema of a plan file",
    "paper": "published memory figures beside what the model computes",
}


REPORT_TO = "https://github.com/memplanner/memplanner/issues"

_MOST_SHOWN = 50
"""How many problems with one command line are printed; of the rest only their number."""


class Answer(Frozen):
    """What a command has to say on stdout, as text or piece after piece of it, and the exit code; where only the pieces
    tell it, what knows it when they are written. problems: what is wrong with the question, for stderr.
    """

    text: str | Iterable[str]
    code: ExitCode | Callable[[], ExitCode] = ExitCode.OK
    problems: tuple[Problem, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """To be asked when the text is written."""
        return self.code if isinstance(self.code, ExitCode) else self.code()


class Command(Protocol):
    """What each module in memplanner.cli provides."""

    def configure(self, parser: argparse.ArgumentParser, *, described: bool) -> None:
        """Add the arguments; help texts only when they will be shown, since they are read from source."""

    def run(self, args: argparse.Namespace, page: Page, root: Path) -> Answer:
        """Answer the question, or raise UserError."""


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors, so that every complaint looks alike."""

    def error(self, message: str) -> NoReturn:
        raise UserError(Problem(where=self.prog, key="", message=message, hint=f"see {self.prog} --help"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the entry point of the `memplanner` script."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        gc.disable()  # a process of its own that lives a fraction of a second; saves a tenth of it
        atexit.register(gc.freeze)  # nor is all there is searched for garbage at its end; a twentieth
        _with_all_streams()
        _without_absurd_sizes()
        _without_plugins()
        _without_translations()
    try:
        with gated(Gate(Path(), _paths_in(words)) if running_in_ci() else None):
            answer = _answer_or_refusal(words)
            _complain(answer.problems)
            return _written(words, answer)
    except KeyboardInterrupt:
        return 130


def _paths_in(words: Iterable[str]) -> Iterator[str]:
    """All that can be a path among the words of a command line: --plan=FILE, and lists such as A,B, hold some too."""
    for word in words:
        for part in (word, word.partition("=")[2]):
            yield from dict.fromkeys((part, *part.split(",")))


def _answer_or_refusal(words: list[str]) -> "Answer":
    """The command's answer; where there is none, what is wrong, in the format that was asked for. Every exception ends
    here, so that none can end the process with Python's exit code 1, which is a verdict.
    """
    page = page_for(sys.stdout)
    try:
        return _answer(words, page, Path())
    except Exception as error:
        return _refusal(words, page, *_failure(words, error))


def _failure(words: list[str], error: Exception) -> tuple[tuple[Problem, ...], ExitCode]:
    """What is wrong where an answer was to be, and the exit code."""
    if isinstance(error, UserError):
        return error.problems, ExitCode.USAGE_ERROR
    if isinstance(error, OSError):  # of the machine: a full disk, a name that is too long
        problem = Problem(where=str(error.filename or _name(words)), key="", message=error.strerror or str(error))
        return (problem,), ExitCode.USAGE_ERROR
    return (_defect(words, error),), ExitCode.SOFTWARE_ERROR


def _refusal(words: list[str], page: Page, problems: tuple[Problem, ...], code: ExitCode) -> "Answer":
    """Why there is no answer: for stderr, and on stdout for whoever reads a document of the format asked for."""
    from memplanner.report.problems import NoAnswer
    from memplanner.report.writers import PROBLEMS

    form = _typed(words, "--format")
    text = ""
    if form in PROBLEMS.formats:
        text = PROBLEMS.write(form, NoAnswer(problems=problems, code=int(code)), page)
        if output := _typed(words, "--output") or _typed(words, "-o"):
            from memplanner.files.write import write_text

            with suppress(UserError):  # it may be the file that is wrong
                write_text(Path(output), text)
                text = ""
    return Answer(text=_inert(text) if form == "markdown" else text, code=code, problems=problems)


def _typed(words: list[str], flag: str) -> str:
    """What was last typed for a flag, as far as words that cannot be understood tell it; "" for nothing."""
    from itertools import pairwise

    typed = [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    typed += [after for word, after in pairwise(words) if word == flag]
    return typed[-1] if typed else ""


def _name(words: list[str]) -> str:
    return f"memplanner {words[0]}" if words and words[0] in COMMANDS else "memplanner"


def _defect(words: list[str], error: Exception) -> Problem:
    """What nobody foresaw, in a line that can be reported. Python's developer mode (-X dev) shows all of it."""
    import traceback

    if sys.flags.dev_mode:
        traceback.print_exception(error)
    home = Path(__file__).parents[1]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if home in Path(frame.filename).parents]
    place = f" in {Path(frames[-1].filename).relative_to(home.parent).as_posix()}:{frames[-1].lineno}" if frames else ""
    said = next(iter(str(error).splitlines()), "")
    return Problem(
        where=_name(words),
        key="",
        message=f"a defect of memplanner, and no answer: {type(error).__name__}{place}{f': {said}' if said else ''}",
        hint=f"please report this line and the command at {REPORT_TO}",
    )


def _with_all_streams() -> None:
    """A stream that is closed (`>&-`) is None to Python, and its number would go to the next file that is opened. In
    its place comes one that cannot be written, so that the answer fails as it does on a full disk.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free: the stream's own
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115


def _without_absurd_sizes() -> None:
    """A terminal's size that is none is not left to the libraries that read it."""
    for name in ("COLUMNS", "LINES"):
        if not is_size(os.environ.get(name, "")):
            os.environ.pop(name, None)


def _without_plugins() -> None:
    """pydantic looks for plugins in what all installed packages say about themselves, which takes a twelfth of a cold
    start. In a process of its own memplanner has none: what loads them (pydantic/plugin/_loader.py) is taken as loaded.
    """
    loader = ModuleType("pydantic.plugin._loader")
    vars(loader)["get_plugins"] = tuple
    sys.modules.setdefault(loader.__name__, loader)


def _without_translations() -> None:
    """argparse looks its own words up in translations, and loads the names of all locales to find none. memplanner
    speaks English throughout: in a process of its own argparse takes its words as they are.
    """
    vars(argparse)["_"] = str


def _written(words: list[str], answer: Answer) -> int:
    """Write the answer to stdout; the exit code."""
    try:
        error = _write((answer.text,) if isinstance(answer.text, str) else answer.text)
        if error is not None:
            problems, code = _failure(words, error)
            _complain(problems)
            return code
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        _complain((Problem(where="stdout", key="", message=f"cannot be written: {error.strerror}"),))
        return max(answer.exit_code, ExitCode.USAGE_ERROR)
    return answer.exit_code


def _write(pieces: Iterable[str]) -> Exception | None:
    """Write the pieces to stdout as they are made; what went wrong where one could not be made."""
    failed = None
    left = iter(pieces)
    while failed is None:
        try:
            text = next(left)
        except StopIteration:
            break
        except Exception as error:
            failed, text = error, ""
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
    return failed


def _discard(stream: TextIO) -> None:
    """What is left in a stream that cannot be written goes nowhere; Python would try again at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(problems: Sequence[Problem]) -> None:
    """A line each on stderr; on GitHub Actions an annotation, which the runner reads there too."""
    lines = []
    for problem in problems[:_MOST_SHOWN]:
        line = f"memplanner: {problem}"
        if os.environ.get("GITHUB_ACTIONS"):
            from memplanner.report.github import command

            line = command("error", {"title": "memplanner"}, line).rstrip()
        lines.append(line)
    if len(problems) > _MOST_SHOWN:
        lines.append(f"memplanner: and {len(problems) - _MOST_SHOWN:,} more")
    try:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody can be told; the exit code says it
        _discard(sys.stderr)


def _inert(text: str) -> str:
    """Text for people; on GitHub Actions, such that the runner can take none of its lines for a command."""
    if not os.environ.get("GITHUB_ACTIONS"):
        return text
    from memplanner.report.github import inert

    return inert(text)


def on_a_terminal() -> bool:
    """Whether someone sits before it: keys come from a terminal, and both streams go to one."""
    return all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def _answer(words: list[str], page: Page, root: Path) -> Answer:
    if not words:
        words = ["tui"] if on_a_terminal() else ["--help"]
    name, rest = words[0], words[1:]
    if name in ("-h", "--help", "help"):
        return Answer(text=usage())
    if name == "--version":
        from importlib.metadata import version

        return Answer(text=f"memplanner {version('memplanner')}\n")
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS) or f"commands: {', '.join(COMMANDS)}"
        raise UserError(
            Problem(where="memplanner", key="", message=f"no command is called {shorten(name, 60)!r}", hint=hint)
        )
    described = any(word in ("-h", "--help") for word in rest)
    command = cast(Command, importlib.import_module(f"memplanner.cli.{name}"))
    parser = _Parser(
        prog=f"memplanner {name}",
        description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.",
        allow_abbrev=False,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=page.width),
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and exit")
    command.configure(parser, described=described)
    if any(action.dest == "format" for action in parser._actions):
        about = "write the answer to a file, in the place of what is there, and not to stdout"
        parser.add_argument("-o", "--output", default="", metavar="FILE", help=about)
    if described:
        return Answer(text=parser.format_help())
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        raise UserError(*(_unknown(parser, word) for word in unknown))
    if output := getattr(args, "output", ""):
        return _into_file(root / output, lambda: command.run(args, page.replaced(depth="none"), root))
    answer = command.run(args, page, root)
    if getattr(args, "format", "text") not in ("text", "markdown"):
        return answer
    return answer.replaced(text=_inert(answer.text if isinstance(answer.text, str) else "".join(answer.text)))


def _into_file(path: Path, ask: Callable[[], Answer]) -> Answer:
    """The command's answer with its text in a file; UserError, before any work is done, if that cannot be written. What
    cannot be written after it, a measurement say, is not lost: it goes to stdout, and stderr says why.
    """
    from memplanner.files.write import check_writable, write_text

    check_writable(path)
    answer = ask()
    try:
        write_text(path, answer.text)
    except UserError as error:
        if not isinstance(answer.text, str):  # a piece of which is gone, and all of which can be had again
            raise
        return answer.replaced(code=ExitCode.USAGE_ERROR, problems=(*answer.problems, *error.problems))
    return answer.replaced(text="", code=answer.exit_code)


def _unknown(parser: argparse.ArgumentParser, word: str) -> Problem:
    flags = [flag for action in parser._actions for flag in action.option_strings]
    if not word.startswith("-"):
        hint = "several values are one word, such as 8,16,32" if parser.prog.endswith(" sweep") else ""
        return Problem(where=parser.prog, key="", message=f"unexpected argument {shorten(word, 60)!r}", hint=hint)
    hint = nearest(word.partition("=")[0], flags) or f"see {parser.prog} --help"
    return Problem(where=parser.prog, key="", message=f"no flag is called {shorten(word, 60)!r}", hint=hint)


def usage() -> str:
    """The help of bare `memplanner`."""
    commands = "".join(f"  {name:<9} {what}\n" for name, what in COMMANDS.items())
    return (
        "Does this LLM training run fit, where is its memory peak and why?\n\n"
        "usage: memplanner COMMAND [ARGUMENTS]\n\n"
        f"{commands}\n"
        "  memplanner                               pick a rank in the terminal\n"
        "  memplanner check --gpu rtx4090           the default plan\n"
        "  memplanner check llama-3.1-8b --method lora --rank 16\n"
        "  memplanner check --from axolotl.yml --gpu rtx4090\n"
        "  memplanner check --all --locked          every plan of memplanner.toml\n"
        "  memplanner COMMAND --help                a command's flags\n\n"
        "Exit codes: 0 fits, 1 does not fit, 2 usage error, 70 a defect of memplanner.\n"
    )
