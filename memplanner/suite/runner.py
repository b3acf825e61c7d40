"""Runs cases one after another and writes a record of each.

Each case has a process of its own: what one leaves in memory must not count in the next, and a process that the system
kills takes no other case with it.
"""

import datetime
import functools
import importlib.metadata
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from memplanner.errors import UserError
from memplanner.files.parse import file_error
from memplanner.files.write import check_writable, new_file, remove_drafts
from memplanner.measurement import (
    SCHEMA,
    Backend,
    Environment,
    Measurement,
    Outcome,
    is_other_file,
    load_measurement,
    parse_measurement,
    save_measurement,
    sentences,
)
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.processes import FRESH, begin, end, quickest
from memplanner.suite.definition import Case
from memplanner.suite.resume import Stale, ended, staleness
from memplanner.units import KIB

PRELOADED = (
    "memplanner.harness.record",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.roberta.modeling_roberta",
)
"""Modules that are imported once, in the process that all cases are forked from. None of them may use CUDA, which does
not survive a fork (peft would, through bitsandbytes).
"""

BAD_FORK = 77
"""Exit code of a case whose process was forked from one that had used CUDA; it is run again in a fresh process."""


END_BYTES = 64 * KIB
"""Of a log that are looked at for the reason why a case has failed."""
POLL_S = 0.1
"""Seconds between two questions whether the run is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An event of a run: a case begins, is done, has a record from before ("kept"), or is left for a later call.

    record: of cases that are done or kept. seconds: how long the case ran. stale: where there was a record from before,
    what has changed since, so that the case is run again, or with `keep_stale` what was passed over.
    """

    what: Literal["begins", "done", "kept", "left"]
    case: Case
    record: Measurement | None = None
    seconds: float = 0.0
    stale: Stale | None = None


def run_cases(
    cases: Sequence[Case],
    backend: Backend,
    out: Path,
    *,
    seconds: float | None = None,
    again: bool = False,
    keep_stale: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Run the cases that have no record in the directory `out` yet; each record is written as soon as its case is done.

    seconds: the time after which the running case is stopped and no other begins; they are left for the next call.
    again: run cases that have records too. keep_stale: do not run those again whose record was made with other software
    or on another machine. stopped: is asked ten times a second, and ends the run as `seconds` does once it is true.

    UserError where a record could not be written, before its case is run; UnsavedError where it could not be after.
    """
    begun = time.monotonic()
    deadline = None if seconds is None else begun + seconds

    def over() -> bool:
        return stopped() or (deadline is not None and time.monotonic() >= deadline)

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    run = _Runs(backend, over)
    remove_drafts(out)
    for case in cases:
        path = out / f"{case.id}.json"
        if over():
            break
        if not os.path.isfile(path):
            _check(path)
    for case in cases:
        path = out / f"{case.id}.json"
        if stopped():
            yield Progress(what="left", case=case)
            continue
        earlier = None if again else _earlier_record(path)
        stale = None
        if earlier is not None and run.environment is not None:
            changes = staleness(earlier, case, backend, run.environment)
            stale = changes if changes.asked or changes.around else None
            if stale is None or (keep_stale and not stale.asked):
                yield Progress(what="kept", case=case, record=earlier, stale=stale)
                continue
        if over():
            yield Progress(what="left", case=case, stale=stale)
            continue
        _check(path)
        yield Progress(what="begins", case=case, stale=stale)
        since = time.monotonic()
        record = run.record(case, _log(path))
        took = time.monotonic() - since
        if record is None:
            yield Progress(what="left", case=case, seconds=took, stale=stale)
            continue
        save_measurement(record, path)
        yield Progress(what="done", case=case, record=record, seconds=took, stale=stale)


def _check(path: Path) -> None:
    """UserError where the record or its log could not be written."""
    for each in (path, _log(path)):
        check_writable(each)
    if path.is_file() and is_other_file(path):
        raise file_error(path, f"is no record of a run ({SCHEMA}), and would be overwritten")


class _Runs:
    """Runs cases on a backend, each in its own process, until `over` is true."""

    def __init__(self, backend: Backend, over: Callable[[], bool]) -> None:
        self.backend = backend
        self.over = over
        self._start = quickest()

    @functools.cached_property
    def environment(self) -> Environment | None:
        """What cases run in; None where `over` became true. On CUDA a process of its own says it, since this one would
        use the device's memory.
        """
        if self.backend != "cuda":
            from memplanner.harness.record import environment

            return environment(self.backend)
        code, text = self._alone(_tell_environment, (self.backend,))
        if code is None:
            return None
        if not text:
            raise file_error(self.backend, f"the device could not be asked for its name: exit code {code}")
        return Environment.model_validate_json(text)

    def record(self, case: Case, log: Path) -> Measurement | None:
        """The record of one case; None where `over` became true and the process was ended."""
        try:
            needed = predict(case.plan, root=case.root).allocated_bytes
        except UserError:  # the run will say the same
            needed = 0
        options = {
            "capped": case.cap_memory,
            "evidence": case.rank_evidence,
            "warmup": case.warmup,
            "timed": case.steps,
            "needed_bytes": needed,
        }
        arguments = (case.id, case.plan.model_dump_json(), str(case.root), self.backend, str(log), options)
        code, text = self._alone(_in_process, arguments)
        if text:
            return parse_measurement(text, case.id)
        return None if code is None else _failed(case, self.backend, code, log)

    def _alone(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> tuple[int | None, str]:
        """The exit code of a process and the text that it sent; no code where `over` became true before it ended."""
        receiver, sender = Pipe(duplex=False)
        try:
            process = begin(function, (sender, *arguments), method=self._start, preloaded=PRELOADED)
        except (EOFError, OSError):  # the fork server was ended, perhaps by the signal that is to end this process too
            receiver.close()
            if self.over():
                return None, ""
            if self._start == FRESH:
                raise
            self._start = FRESH
            return self._alone(function, arguments)
        finally:
            sender.close()
        text = ""
        try:
            while not receiver.poll(POLL_S):
                if self.over():
                    return None, ""
            with suppress(EOFError, OSError):
                text = receiver.recv()
            while process.is_alive():
                if self.over():
                    return None, text
                process.join(POLL_S)
        finally:
            end(process)
            receiver.close()
        if process.exitcode == BAD_FORK and self._start != FRESH:
            self._start = FRESH
            return self._alone(function, arguments)
        if process.exitcode != 0 and self.over():  # a signal to the whole group of processes asks for the same
            return None, text
        return process.exitcode, text


def _in_process(
    sender: Connection, case_id: str, plan: str, root: str, backend: Backend, log: str, options: dict[str, Any]
) -> None:
    _leave_signals_to_parent()
    with new_file(Path(log)) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    from memplanner.harness.record import available, forked_too_late, measure

    if backend == "cuda" and forked_too_late():
        os._exit(BAD_FORK)
    if why := available(backend):
        raise SystemExit(f"{backend} is not available: {why}")
    try:
        record = measure(TrainingPlan.model_validate_json(plan), backend, name=case_id, root=Path(root), **options)
    except UserError as error:
        raise SystemExit("; ".join(str(problem) for problem in error.problems)) from None
    _send(sender, record.dump())


def _tell_environment(sender: Connection, backend: Backend) -> None:
    _leave_signals_to_parent()
    from memplanner.harness.record import environment, forked_too_late

    if forked_too_late():
        os._exit(BAD_FORK)
    _send(sender, environment(backend).model_dump_json())


def _leave_signals_to_parent() -> None:
    """Ignore what is sent to all processes of a terminal: the parent ends this one."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _send(sender: Connection, text: str) -> None:
    """Send it and end: freeing a large model takes seconds and frees nothing that the system does not."""
    sender.send(text)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a log that the disk has no room for
            stream.flush()
    os._exit(0)


def _log(path: Path) -> Path:
    return path.parent / "logs" / f"{path.stem}.log"


def _earlier_record(path: Path) -> Measurement | None:
    """An earlier run's record, if it can be read and another run would end alike."""
    if not path.is_file():
        return None
    try:
        record = load_measurement(path)
    except UserError:
        return None
    return record if ended(record) else None


def _failed(case: Case, backend: Backend, code: int, log: Path) -> Measurement:
    text = ""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - END_BYTES))
        text = file.read(END_BYTES).decode("utf-8", "replace")
    output = [line for line in text.splitlines() if line.strip()]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    message = (
        ": ".join([how, *output[-1:]]) if code != 1 or not output else output[-1]
    )  # Python prints the reason before it exits with 1
    return Measurement(
        id=case.id,
        backend=backend,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        plan=case.plan,
        environment=Environment(
            memplanner=importlib.metadata.version("memplanner"),
            python=platform.python_version(),
            platform=f"{platform.system()} {platform.machine()}",
        ),
        outcome=Outcome(status="failed", message=sentences(message)),
    )
