"""Kills runs of a suite, as real processes, and checks what they leave: `python -m tests.suite.kills 200`.

A suite of small cases on fake tensors is run as `memplanner profile --suite`. At a moment drawn at random it meets one
of KINDS. After each:

- no process of it is alive two seconds later: neither the case, nor the fork server, nor multiprocessing's tracker;
- every record that is there is whole, can be read, and is equal, but for its date, to that of an undisturbed run;
- nothing else is in the folder but logs, and drafts after SIGKILL alone.

The next run goes on from there, and so on until the suite is complete; then its folder is emptied. So every run but the
first is one that resumes what a kill has left. Linux only: it looks at /proc and mounts a tmpfs where it may.
"""

import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from memplanner.errors import UserError
from memplanner.measurement import load_measurement

FINISHED: Final = 0.1
"""How often a suite is completed undisturbed after a disturbed run."""
ALIVE_S: Final = 2.0
"""Seconds after its end until nothing of a run may be alive."""
PATIENCE_S: Final = 20.0
"""Seconds in which an interpreter with torch in it ends, on a machine that has much else to do."""
LONG_S: Final = 900.0
"""Nothing here takes that long, unless it hangs."""

MODEL: Final = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 500,
}
SUITE: Final = """
[plan]
model = "tiny.json"
step = { seq_len = 16 }

[[group]]
name = "k"
grid = { method = ["full", "lora"], "step.batch_size" = [1, 2] }
"""
NUM_CASES: Final = 4

SIGNALS: Final = ("kill", "term", "hup", "interrupt", "term-group")
KINDS: Final = (*SIGNALS * 4, "stop", "two", "full", "limit")
"""SIGKILL, SIGTERM, SIGHUP or SIGINT to the run; SIGTERM to all processes of its group; SIGSTOP, then SIGCONT; another
run into the same folder at the same time; a disk that is full; files that may not grow (RLIMIT_FSIZE). Signals are
cheap, and come at moments of many kinds.
"""
EXIT_CODES: Final = {"kill": -9, "term": 143, "hup": 129, "interrupt": 130, "term-group": 143}


class BrokenError(AssertionError):
    """A promise that was not kept."""


@dataclass
class Counts:
    """What a campaign has seen."""

    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    resumed: int = 0
    """Runs that went on from what a disturbed run had left, each of whose records was exact."""
    complete: int = 0
    """Suites that were complete in the end, each of whose records was exact."""
    records: int = 0
    """Records that were compared."""
    missed: int = 0
    """Runs that had ended before their signal was due."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Signal → from each of its kind, the seconds until nothing but the run itself was alive."""
    drafts: Counter[str] = field(default_factory=Counter)
    """Kind → drafts that it left."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        drafts = ", ".join(f"{count} by {kind}" for kind, count in sorted(self.drafts.items()) if count) or "none"
        codes = ", ".join(f"{kind} {code}: {count}" for (kind, code), count in sorted(self.codes.items()))
        times = ", ".join(
            f"{kind} {statistics.median(took):.2f} and {max(took):.2f} s" for kind, took in sorted(self.seconds.items())
        )
        return (
            f"{self.kinds.total()} disturbed runs ({kinds}; {self.missed} ended before it); {self.resumed} resumed, "
            f"{self.complete} suites complete, {self.records} records compared, all exact; no process left; from a "
            f"signal to the case's end, median and worst: {times or 'none'}; drafts left: {drafts}; exit codes {codes}"
        )


class Campaign:
    """Disturbs runs of one suite below a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.counts = Counts()
        self.out = folder / "records"
        (folder / "tiny.json").write_text(json.dumps(MODEL), encoding="utf-8")
        (folder / "s.toml").write_text(SUITE, encoding="utf-8")
        self._disturbed = False
        self.reference: dict[str, Any] = {}
        begun = time.monotonic()
        with self._run("undisturbed", folder / "undisturbed") as run:
            self._expect(run.wait(LONG_S) == 0, run, "a run that nobody disturbs does not complete")
        self.seconds = time.monotonic() - begun
        self.reference = {path.name: _content(path) for path in (folder / "undisturbed").glob("*.json")}
        self._expect(len(self.reference) == NUM_CASES, None, "a run that nobody disturbs has not all records")

    def disturb(self, kind: str) -> None:
        """One run that meets `kind`, on what the last one has left."""
        self.counts.kinds[kind] += 1
        if self._disturbed:
            self.counts.resumed += 1
        if kind == "full":
            self._on_full_disk()
        elif kind == "limit":
            self._with_limit()
        else:
            self._signalled(kind)
        self._disturbed = True
        if len(list(self.out.glob("*.json"))) == NUM_CASES or self.random.random() < FINISHED:
            self.finish()

    def finish(self) -> None:
        """Complete the suite, without being disturbed, and begin anew."""
        begun = time.monotonic()
        if not self.out.exists() or len(list(self.out.glob("*.json"))) < NUM_CASES:
            with self._run("finish", self.out) as run:
                code = run.wait(LONG_S)
                self._expect(code == 0, run, f"resumed, the suite ends with {code}")
                found = self._compare(self.out, run)
                self._expect(found == NUM_CASES, run, f"resumed, the suite has {found} records of {NUM_CASES}")
            self.seconds = (self.seconds + time.monotonic() - begun) / 2  # the machine may have other work, or none now
        self.counts.complete += 1
        shutil.rmtree(self.out)
        self._disturbed = False

    def _signalled(self, kind: str) -> None:
        with self._run(kind, self.out) as run:
            with suppress(subprocess.TimeoutExpired):
                run.wait(self.random.uniform(0.0, self.seconds))
            if kind == "two":
                with self._run(kind, self.out) as other:
                    codes = run.wait(LONG_S), other.wait(LONG_S)
                    self._expect(codes == (0, 0), run, f"two at once end with {codes}")
            elif kind == "stop":
                run.send_signal(signal.SIGSTOP)
                time.sleep(self.random.uniform(0.1, 2.0))
                run.send_signal(signal.SIGCONT)
                self._expect(run.wait(LONG_S) == 0, run, f"stopped and continued, it ends with {run.returncode}")
            elif run.returncode is not None:
                self.seconds *= 0.8
                self.counts.missed += 1
            else:
                self._end(run, kind)
        self._check_folder(self.out, kind, run)

    def _end(self, run: "subprocess.Popen[bytes]", kind: str) -> None:
        _signal(run, kind)
        sent = time.monotonic()
        mark: str = run.mark  # type: ignore[attr-defined]
        while (left := [number for number in _marked(mark) if number != run.pid]) and time.monotonic() - sent < ALIVE_S:
            time.sleep(0.02)
        self._expect(not left, run, f"{ALIVE_S:.0f} s after {kind} its case still runs")
        took = time.monotonic() - sent
        code = run.wait(LONG_S)
        # Before main() is there to see it, and after it, a signal ends the interpreter as it ends any program.
        number = {"kill": 9, "term": 15, "hup": 1, "interrupt": 2, "term-group": 15}[kind]
        self._expect(code in (EXIT_CODES[kind], -number), run, f"{kind} ends it with {code}")
        whole = time.monotonic() - sent
        self._expect(whole <= PATIENCE_S, run, f"{kind} ends it after {whole:.1f} s")
        self.counts.codes[kind, code] += 1
        self.counts.seconds.setdefault(kind, []).append(took)
        if code in (129, 143):
            self._expect("plans have their record" in _errors(run), run, f"{kind}: not said how far it came")

    def _on_full_disk(self) -> None:
        with _small_disk(self.folder / "disk") as disk:
            if disk is None:  # nothing may be mounted here
                self._with_limit()
                return
            filler = disk / "filler"
            out = disk / "records"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            os.truncate(filler, max(0, filler.stat().st_size - self.random.randrange(0, 40 * 1024, 4096)))
            with self._run("full", out) as run:
                code = run.wait(LONG_S)
                printed = (self.folder / "stdout").read_text(encoding="utf-8")
                said = [line for line in _errors(run).splitlines() if line.startswith("memplanner: ")]
                self._expect(code in (0, 2), run, f"on a full disk it ends with {code}")
                if code == 2:
                    self._expect(
                        len(said) == 1 and "cannot be written" in said[0], run, "a full disk is not said in a line"
                    )
                    if printed:
                        self._equal(json.loads(printed), run)
                self.counts.codes["full", code] += 1
            self._check_folder(out, "full", run)
            filler.unlink()
            with self._run("full", out) as run:
                self._expect(run.wait(LONG_S) == 0, run, "with room again, it does not complete")
            self._expect(self._compare(out, run) == NUM_CASES, run, "with room again, records are missing")

    def _with_limit(self) -> None:
        limit = self.random.randrange(0, 8192)
        with self._run("limit", self.out, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) as run:
            code = run.wait(LONG_S)
            self._expect(code in (0, 2), run, f"where files may have {limit} bytes it ends with {code}")
            self.counts.codes["limit", code] += 1
        self._check_folder(self.out, "limit", run)

    @contextmanager
    def _run(
        self, kind: str, out: Path, before: Callable[[], None] | None = None
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """The suite as a process of its own, and after it none that it has left."""
        mark = f"MEMPLANNER_KILLS={uuid.uuid4().hex}"
        errors = self.folder / f"stderr-{mark[-8:]}"
        words = (
            sys.executable,
            "-m",
            "memplanner",
            "profile",
            "--suite",
            "s.toml",
            "--device",
            "fake",
            "--out",
            str(out),
        )
        name, _, value = mark.partition("=")
        environment = {**os.environ, name: value, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with errors.open("wb") as stderr, (self.folder / "stdout").open("wb") as stdout:
            run = subprocess.Popen(
                words,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                preexec_fn=lambda: _as_in_a_shell(before),
                start_new_session=True,
            )
        run.errors, run.mark = errors, mark  # type: ignore[attr-defined]
        try:
            yield run
            ended = time.monotonic()
            left = _marked(mark)
            while left and time.monotonic() - ended < ALIVE_S:
                time.sleep(0.02)
                left = _marked(mark)
            self._expect(not left, run, f"{kind}: alive {ALIVE_S:.0f} s after it: {left}")
        finally:
            for number in _marked(mark):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            run.wait()
            errors.unlink()

    def _check_folder(self, out: Path, kind: str, run: "subprocess.Popen[bytes]") -> None:
        self._compare(out, run)
        if not out.exists():
            return
        for path in (path for path in out.rglob("*") if path.is_file()):
            name = path.relative_to(out).as_posix()
            if name in self.reference or (name.startswith("logs/") and name.endswith(".log")):
                continue
            draft = path.name.startswith(".") and path.name.endswith(".tmp")
            self._expect(draft and kind == "kill", run, f"{kind} leaves {name}")
            self.counts.drafts[kind] += 1
            path.unlink()  # counted once

    def _compare(self, out: Path, run: "subprocess.Popen[bytes]") -> int:
        """How many records there are, each of which is equal to its reference."""
        paths = list(out.glob("*.json"))
        for path in paths:
            try:
                content = _content(path)
            except UserError as error:
                self._expect(False, run, f"a record cannot be read: {error}")
            self._equal(content, run)
        return len(paths)

    def _equal(self, content: dict[str, Any], run: "subprocess.Popen[bytes]") -> None:
        expected = self.reference[f"{content['id']}.json"]
        differ = [key for key in expected if key not in _OF_THE_MOMENT and content[key] != expected[key]]
        self._expect(not differ, run, f"the record {content['id']} differs in {differ}")
        self.counts.records += 1

    def _expect(self, kept: bool, run: "subprocess.Popen[bytes] | None", promise: str) -> None:
        if not kept:
            raise BrokenError(f"{promise}\n{'' if run is None else _errors(run)[-2000:]}")


def _as_in_a_shell(before: Callable[[], None] | None) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # which are ignored where this runs in the background
        signal.signal(number, signal.SIG_DFL)
    if before is not None:
        before()


_OF_THE_MOMENT: Final = ("date",)
"""What differs between two records of the same run on fake tensors, which take no time."""


def _content(path: Path) -> dict[str, Any]:
    load_measurement(path)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _errors(run: "subprocess.Popen[bytes]") -> str:
    path: Path = run.errors  # type: ignore[attr-defined]
    return path.read_text(encoding="utf-8", errors="replace")


def _signal(run: "subprocess.Popen[bytes]", kind: str) -> None:
    with suppress(ProcessLookupError):
        if kind == "term-group":
            os.killpg(run.pid, signal.SIGTERM)
        else:
            name = {"kill": "SIGKILL", "term": "SIGTERM", "hup": "SIGHUP", "interrupt": "SIGINT"}[kind]
            run.send_signal(getattr(signal, name))


def _marked(mark: str) -> list[int]:
    """The living processes that were begun with the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


@contextmanager
def _small_disk(place: Path) -> Iterator[Path | None]:
    """A disk of 256 KiB, where one may be mounted."""
    place.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    options = ("-t", "tmpfs", "-o", "size=256k", "memplanner-kills", str(place))
    if mount is None or subprocess.run((mount, *options), capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(("umount", str(place)), check=True)


def campaign(folder: Path, count: int, *, seed: int, kinds: tuple[str, ...] = KINDS) -> Counts:
    """Disturb `count` runs, and complete what they have left. BrokenError where a promise is not kept."""
    campaign = Campaign(folder, seed)
    order = [kinds[i % len(kinds)] for i in range(count)]
    if count > len(kinds):
        campaign.random.shuffle(order)
    for number, kind in enumerate(order, 1):
        try:
            campaign.disturb(kind)
        except BrokenError as error:
            raise BrokenError(f"run {number} of {count}, seed {seed}, {kind}: {error}") from None
        if count > len(kinds):
            print(f"{number}/{count} {kind}: {campaign.counts.complete} complete", flush=True)
    if campaign.out.exists():
        campaign.finish()
    return campaign.counts


def main() -> None:
    """`python -m tests.suite.kills [COUNT [SEED]]`."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="memplanner-kills-") as folder:
        print(campaign(Path(folder), count, seed=seed))


if __name__ == "__main__":
    main()
