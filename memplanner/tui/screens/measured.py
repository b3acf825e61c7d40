"""Recorded runs, compared with their predictions, and a run of the present plan on this machine."""

import importlib.util
import shutil
import time
from collections.abc import Sequence
from os.path import lexists
from pathlib import Path
from typing import cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Static
from textual.worker import get_current_worker

from memplanner.errors import UserError, printable
from memplanner.files.sandbox import scratch_folder
from memplanner.files.write import file_name
from memplanner.measurement import Backend, Measurement, UnsavedError, load_measurement
from memplanner.report.layout import fit, pad
from memplanner.report.palette import ACCENT, MUTED
from memplanner.report.phrases import PHASE_WORDS, device_word, method_words
from memplanner.suite.definition import Case
from memplanner.suite.runner import run_cases
from memplanner.tui.screens.pane import Pane
from memplanner.tui.state import Choice, PlanState
from memplanner.tui.widgets.ask import Ask
from memplanner.tui.widgets.table import Table, right
from memplanner.units import format_bytes
from memplanner.validation.records import compare_record, records_in
from memplanner.validation.rows import Row, Validation

BACKENDS: dict[str, str] = {
    "cuda": "this machine's GPU: real steps, the allocator's own figures",
    "cpu": "this machine's processor: real steps; wants the plan's bytes as RAM",
    "fake": "tensors without data: exact live bytes, on any machine, in seconds",
}
RUN_WIDTH = 32
"""Width of a run's name in the table; the detail below shows it in full."""
MODEL_WIDTH = 80
"""The most that is taken of a model's name into that of a run, which is a file's, too."""


class MeasuredPane(Pane):
    """The table of runs and the detail of one. folder: where records are read from and written to; None for nowhere."""

    BINDINGS = [
        Binding("p", "run", "Run"),
        Binding("x", "cancel", "Cancel"),
    ]

    def __init__(self, state: PlanState, folder: Path | None) -> None:
        super().__init__(state, "measured-pane")
        self.folder = folder
        self.records: list[Measurement] = []
        self.unreadable: list[str] = []
        self.running = ""
        self.began = 0.0
        self._stop = False
        self._loaded = False

    def compose(self) -> ComposeResult:
        """The status, the table of runs, and the chosen run's figures."""
        yield Static(id="measured-status", classes="heading")
        yield Table(id="records")
        with VerticalScroll(id="record-scroll"):
            yield Static(id="record")

    def on_mount(self) -> None:
        """Add the table's columns, and start the clock that shows how long a run has taken."""
        self.query_one(DataTable).add_columns("Run", "Allocated", "Predicted", "Error", "Method", "Batch", "On")
        self.set_interval(0.5, self._tick)

    def show(self) -> None:
        """Read the folder's records, once."""
        if not self._loaded:
            self._loaded = True
            self._read()
        self._fill()

    def _read(self) -> None:
        if self.folder is None or not self.folder.exists():
            return
        try:
            paths = records_in([str(self.folder.absolute())], Path())
        except UserError:
            return  # an empty folder holds no records yet
        for path in paths:
            try:
                self.records.append(load_measurement(path))
            except UserError as error:
                self.unreadable.append(str(error.problems[0]))

    def compared(self, record: Measurement) -> Validation:
        """The comparison of the record with a prediction."""
        validation = Validation()
        with scratch_folder() as scratch:
            compare_record(validation, record, scratch)
        return validation

    def _fill(self) -> None:
        table = self.query_one(DataTable)
        table.clear()
        for number, record in enumerate(self.records):
            rows = self.compared(record).rows
            peak = next((row for row in rows if row.metric == "allocated"), None)
            plan = record.plan
            on = record.environment.gpu or {"cpu": "CPU", "fake": "fake tensors"}.get(record.backend, record.backend)
            table.add_row(
                Text(fit(printable(record.id), RUN_WIDTH)),
                right(format_bytes(peak.measured_bytes) if peak else record.outcome.status),
                right(format_bytes(peak.predicted_bytes) if peak else "–"),
                right(f"{peak.error:+.2%}" if peak else "–"),
                Text(method_words(plan) if plan is not None else "–"),
                Text(f"{plan.step.batch_size} × {plan.step.seq_len}" if plan is not None else "–"),
                Text(printable(on)),
                key=str(number),
            )
        self._say_status()
        self._detail(table.cursor_row)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the figures of the chosen run."""
        self._detail(event.cursor_row)

    def _detail(self, number: int) -> None:
        detail = self.query_one("#record", Static)
        if not 0 <= number < len(self.records):
            sentences = [
                "No run to show. p runs the present plan on this machine, and lays what it took over the prediction.",
                *(f"Not read: {problem}" for problem in self.unreadable),
            ]
            detail.update(Text("\n".join(map(printable, sentences)), "dim"))
            return
        record = self.records[number]
        compared = self.compared(record)
        width = max(self.query_one("#record-scroll").size.width - 2, 40)
        words = printable(f"{record.id}: {record.outcome.status}. {record.outcome.message}".strip())
        lines = [Text(fit(words, width), "bold")]
        lines += [Text(printable(skipped.reason), "dim") for skipped in compared.skipped]
        lines += self._overlay(compared.rows, width)
        if compared.rows and record.backend != "cuda":
            lines.append(Text("Predictions without cuBLAS's workspaces here, which only CUDA has", "dim"))
        detail.update(Text("\n").join(lines))

    def _overlay(self, rows: Sequence[Row], width: int) -> list[Text]:
        """Two bars for each figure, what was measured or traced above what was predicted."""
        most = max((max(row.measured_bytes, row.predicted_bytes) for row in rows), default=1) or 1
        room = max(width - 24 - 12 - 10, 8)
        lines = []
        for row in rows:
            name = PHASE_WORDS.get(row.metric, row.metric)
            ours, theirs = round(row.predicted_bytes * room / most), round(row.measured_bytes * room / most)
            line = Text(pad(name, 23) + " ").append("█" * theirs + " " * (room - theirs), self.ink.style(ACCENT))
            line.append(f" {pad(format_bytes(row.measured_bytes), 11, right=True)} {row.witness}")
            lines.append(line)
            line = Text(" " * 24).append("▒" * ours + " " * (room - ours), self.ink.style(MUTED))
            error = "" if row.measured_bytes == 0 else f" {row.error:+.2%}"
            line.append(f" {pad(format_bytes(row.predicted_bytes), 11, right=True)}{error}", "dim")
            lines.append(line)
        return lines

    def _tick(self) -> None:
        if self.running:
            self._say_status()

    def _say_status(self) -> None:
        status = self.query_one("#measured-status", Static)
        if self.running:
            words = f"{self.running} … {time.monotonic() - self.began:.0f} s (x cancels)"
        else:
            where = f" from {self.folder}" if self.folder is not None else ""
            count = "1 run" if len(self.records) == 1 else f"{len(self.records)} runs"
            words = f"{count}{where}. p runs the present plan: {self._plan_words()}"
        status.update(Text(printable(words)))

    def _plan_words(self) -> str:
        plan = self.state.plan
        return f"{plan.model}, {method_words(plan)}, batch {plan.step.batch_size} × {plan.step.seq_len}"

    def action_run(self) -> None:
        """Ask for a backend, then run the plan on it."""
        if self.running:
            self.notify("One run at a time: x cancels it", severity="warning")
            return
        if importlib.util.find_spec("torch") is None:
            self.notify("A run needs torch: pip install 'memplanner[live]'", severity="error", markup=False)
            return
        first = "cuda" if shutil.which("nvidia-smi") else "fake"
        choices = [Choice(value=name, about=words) for name, words in BACKENDS.items()]
        question = Ask(f"Run {self._plan_words()} on", choices=choices, value=first)
        self.app.push_screen(question, self._begin)

    def _begin(self, backend: str | None) -> None:
        if backend is not None:
            self._stop = False
            self.running = f"Running on {backend}"
            self.began = time.monotonic()
            self._say_status()
            self._run(backend)

    def action_cancel(self) -> None:
        """Stop the run by killing its process."""
        if self.running:
            self._stop = True
            self.running = "Cancelling"

    def on_unmount(self) -> None:
        """Stop a run when the app ends."""
        self._stop = True

    @work(thread=True, group="run")
    def _run(self, backend: str) -> None:
        """Run the plan's steps in a process of their own."""
        worker = get_current_worker()
        plan = self.state.plan
        name = f"{Path(plan.model).stem[:MODEL_WIDTH]}-{plan.method.kind}-{device_word(plan)}".replace(" ", "")
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)

        def stopped() -> bool:
            return self._stop or worker.is_cancelled

        def run_into(folder: Path) -> None:
            case = Case(id=_free(folder, file_name(f"{name}-{backend}")), plan=plan, root=self.state.root)
            for event in run_cases([case], cast(Backend, backend), folder, again=True, stopped=stopped):
                if event.what == "done" and event.record is not None:
                    self.app.call_from_thread(self._done, event.record)
                elif event.what == "left":
                    self.app.call_from_thread(self._done, None)

        try:
            if self.folder is not None:
                run_into(self.folder)
            else:
                with scratch_folder() as scratch:
                    run_into(scratch)
        except UnsavedError as error:
            self.app.call_from_thread(self._done, error.record, str(error))
        except (UserError, OSError) as error:  # a full disk, say
            self.app.call_from_thread(self._failed, str(error))

    def _failed(self, problem: str) -> None:
        self.running = ""
        self.notify(printable(problem), severity="error", markup=False)
        self._say_status()

    def _done(self, record: Measurement | None, unsaved: str = "") -> None:
        """Show a run's record. unsaved: why it is in no file, if it is not."""
        self.running = ""
        if unsaved:
            self.notify(printable(unsaved), severity="error", markup=False)
        if record is None:
            self.notify("Cancelled")
        else:
            self.records.insert(0, record)
            if record.outcome.status != "completed" or record.outcome.message:
                text = f"{record.outcome.status}: {record.outcome.message}"
                self.notify(printable(text), severity="warning", markup=False)
        self._fill()
        self.query_one(DataTable).move_cursor(row=0)


def _free(folder: Path, name: str) -> str:
    """A record name that is not taken."""
    number = 1
    while lexists(folder / (f"{name}.json" if number == 1 else f"{name}-{number}.json")):
        number += 1
    return name if number == 1 else f"{name}-{number}"
