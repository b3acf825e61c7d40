"""Runs cases one after another and writes a record of each.

Each case has a process of its own: what one leaves in memory must not count in the next, and a process that the system
kills takes no other case with it.
"""

import datetime
import importlib.metadata
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memplanner.errors import UserError
from memplanner.measurement import Backend, Environment, Measurement, Outcome, load_measurement, save_measurement
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.processes import FRESH, begin, end, quickest
from memplanner.suite.definition import Case

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An event of a run: a case begins, is done, has a record from before ("kept"), or is left for a later call.

    record: of cases that are done or kept. seconds: how long the case ran.
    """

    what: Literal["begins", "done", "kept", "left"]
    case: Case
    record: Measurement | None = None
    seconds: float = 0.0


def run_cases(
    cases: list[Case],
    backend: Backend,
    out: Path,
    *,
    seconds: float | None = None,
    again: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Run the cases that have no record in the directory `out` yet; each record is written as soon as its case is done.

    seconds: the time after which the running case is stopped and no other begins; they are left for the next call.
    again: run cases that have records too. stopped: is asked ten times a second, and ends the run as `seconds` does
    once it is true.
    """
    begun = time.monotonic()
    deadline = None if seconds is None else begun + seconds

    def over() -> bool:
        return stopped() or (deadline is not None and time.monotonic() >= deadline)

    start = quickest()
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for case in cases:
        path = out / f"{case.id}.json"
        recorded = None if again else _reusable_record(path, case, backend)
        if recorded is not None:
            yield Progress(what="kept", case=case, record=recorded)
            continue
        if over():
            yield Progress(what="left", case=case)
            continue
        yield Progress(what="begins", case=case)
        since = time.monotonic()
        code = _run_alone(case, backend, path, start, over)
        if code == BAD_FORK:
            start = FRESH
            code = _run_alone(case, backend, path, start, over)
        if code is None:
            yield Progress(what="left", case=case, seconds=time.monotonic() - since)
            continue
        if code == 0:
            record = load_measurement(path)
        else:
            record = _failed(case, backend, code, _log(out, case))
            save_measurement(record, path)
        yield Progress(what="done", case=case, record=record, seconds=time.monotonic() - since)


def _run_alone(case: Case, backend: Backend, path: Path, start: str, over: Callable[[], bool]) -> int | None:
    """Run one case in its own process: the exit code, or None where `over` became true and the process was ended."""
    log = _log(path.parent, case)
    log.parent.mkdir(parents=True, exist_ok=True)
    options = {
        "capped": case.cap_memory,
        "evidence": case.rank_evidence,
        "warmup": case.warmup,
        "timed": case.steps,
        "needed_bytes": predict(case.plan, root=case.root).allocated_bytes,
    }
    arguments = (case.id, case.plan.model_dump_json(), str(case.root), backend, str(path), str(log), options)
    process = begin(_in_process, arguments, method=start, preloaded=PRELOADED)
    try:
        while process.is_alive():
            if over():
                return None
            process.join(0.1)
    finally:
        end(process)
    assert process.exitcode is not None
    return process.exitcode


def _in_process(
    case_id: str, plan: str, root: str, backend: Backend, path: str, log: str, options: dict[str, Any]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    with Path(log).open("w", encoding="utf-8") as file:
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
    save_measurement(record, Path(path))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # freeing a large model takes seconds and frees nothing that the system does not


def _log(out: Path, case: Case) -> Path:
    return out / "logs" / f"{case.id}.log"


def _reusable_record(path: Path, case: Case, backend: Backend) -> Measurement | None:
    """An earlier run's record, if it is of the same plan and backend and has all that the case asks for; else None."""
    if not path.exists():
        return None
    try:
        record = load_measurement(path)
    except UserError:
        return None
    same = record.plan == case.plan and record.backend == backend
    finished = record.outcome.status in ("completed", "out-of-memory", "cannot-be-built")
    lacks_evidence = case.rank_evidence and not record.rank_evidence and backend != "fake"
    evidence_untried = lacks_evidence and record.outcome.status == "completed" and not record.outcome.message
    return record if same and finished and not evidence_untried else None


def _failed(case: Case, backend: Backend, code: int, log: Path) -> Measurement:
    output = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
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
        outcome=Outcome(status="failed", message=message),
    )
