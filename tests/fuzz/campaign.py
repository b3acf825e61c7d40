"""Runs targets over many inputs. Each input is made from its target's name, the seed and its number alone."""

import contextlib
import os
import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from memplanner.errors import UserError
from tests.fuzz.targets import TARGETS, Target, judge_error, set_up, traces, warm_up

SLOW_S = 2.0
"""Of the processor's time, for one input; each step that is traced may take as much again."""
GIVE_UP_S = 60
MEMORY = Path("/dev/shm")
"""Where files are written soonest, on a system that has it."""


class HungError(BaseException):
    """An input that does not end; no `except Exception` may keep it."""


@dataclass
class Tally:
    """What became of a target's inputs. findings: what is wrong → how often, the first input and its traceback."""

    inputs: int = 0
    refused: int = 0
    slowest: tuple[float, int] = (0.0, 0)
    findings: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[int, str]] = field(default_factory=dict)

    def note(self, what: str, number: int, details: str) -> None:
        self.findings[what] += 1
        self.first.setdefault(what, (number, details))


@contextlib.contextmanager
def laid_out() -> Iterator[None]:
    """In an empty folder, with the files that inputs name; as at home, in a pipe."""
    before, variables = Path.cwd(), dict(os.environ)
    for name in ("CI", "GITHUB_ACTIONS", "COLUMNS", "FORCE_COLOR"):
        os.environ.pop(name, None)

    def stop(number: int, frame: FrameType | None) -> None:
        raise HungError

    handler = signal.signal(signal.SIGALRM, stop)
    with tempfile.TemporaryDirectory(prefix="memplanner-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        os.chdir(folder)
        try:
            Path("scratch").mkdir()
            Path("no-cache").touch()  # what is no folder keeps no traces: an input's time depends on it alone
            os.environ["XDG_CACHE_HOME"] = str(Path("no-cache").absolute())
            set_up()
            yield
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(variables)
            signal.signal(signal.SIGALRM, handler)


def one(target: Target, seed: int, number: int, tally: Tally) -> None:
    """Ask about one input."""
    rng = random.Random(f"{target.name} {seed} {number}")
    tally.inputs += 1
    signal.setitimer(signal.ITIMER_REAL, GIVE_UP_S)
    began, traced = time.process_time(), traces.made
    try:
        try:
            target.ask(rng)
        except UserError as error:
            tally.refused += 1
            judge_error(error)
    except HungError:
        tally.note("does not end", number, "")
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        tally.note(f"{type(error).__name__} at {place}: {str(error)[:160]!r}", number, traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.process_time() - began
    if took > tally.slowest[0]:
        tally.slowest = (took, number)
    if took > SLOW_S * (1 + traces.made - traced):
        tally.note("takes more than two seconds", number, f"{took:.1f} s")


def campaign(
    total: int, seed: int, *, targets: tuple[Target, ...] = TARGETS, start: int = 0
) -> Iterator[tuple[Target, Tally, float]]:
    """Shares the inputs out among the targets; each one's tally and seconds as soon as it is done."""
    shares = sum(target.share for target in targets)
    for target in targets:
        if target.may_trace:
            warm_up()
        tally, began = Tally(), time.monotonic()
        for number in range(start, start + max(total * target.share // shares, 1)):
            one(target, seed, number, tally)
        yield target, tally, time.monotonic() - began
