"""What fits this card by rank, batch, optimizer and checkpointing, predicted in the background."""

import math

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, ProgressBar, Static
from textual.worker import get_current_worker

from memplanner.errors import printable
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import device_word, verdict_word
from memplanner.solve.sweep import Axis, Point, Sweep
from memplanner.tui.background import in_background
from memplanner.tui.jobs import combinations
from memplanner.tui.screens.compare import Load
from memplanner.tui.screens.pane import Pane
from memplanner.tui.state import PlanState, value_in
from memplanner.tui.widgets.table import Table, right
from memplanner.units import format_bytes

TITLES = ("Rank", "Batch", "Tokens", "Optimizer", "Checkpointing", "", "Device", "To spare")
BATCHES = 7
"""Batch sizes by factors of two."""


class FrontierPane(Pane):
    """The table of combinations that fit. result: the last sweep; None while one is under way."""

    BINDINGS = [
        Binding("o", "sort", "Sort"),
        Binding("a", "all", "All or frontier"),
    ]

    def __init__(self, state: PlanState) -> None:
        super().__init__(state, "frontier-pane")
        self.result: Sweep | None = None
        self.everything = False
        self.sorted_by = 2
        self.falling = True
        self._points: dict[str, Point] = {}
        self._shown: object = None

    def compose(self) -> ComposeResult:
        """A heading that says what is shown, the progress of the search, and the table."""
        yield Static(id="frontier-heading", classes="heading")
        yield ProgressBar(id="frontier-progress", show_eta=False)
        yield Table(id="frontier-table")

    def on_mount(self) -> None:
        """Add the table's columns."""
        table = self.query_one(DataTable)
        for title in TITLES:
            table.add_column(title, key=title or "verdict")

    def show(self) -> None:
        """Search again if the plan has changed."""
        if self._shown != self.state.plan:
            self._shown = self.state.plan
            self.result = None
            self.query_one(DataTable).clear()
            self._search()

    def axes(self) -> list[Axis]:
        """The axes to search around the present plan: the settings that its method has, up to sensible values."""
        plan, state = self.state.plan, self.state
        axes = []
        if plan.method.chosen_rank is not None:
            ranks = {1 << n for n in range(2, 21) if 1 << n <= state.ceiling("--rank")} | {plan.method.chosen_rank}
            axes.append(Axis(name="--rank", values=tuple(map(str, sorted(ranks)))))
        batches = {1 << n for n in range(BATCHES)} | {plan.step.batch_size}
        axes.append(Axis(name="--batch-size", values=tuple(map(str, sorted(batches)))))
        if plan.optimizer.kind in ("adamw", "adamw-8bit"):
            own = value_in(plan, "--optimizer")
            wide = "adamw" if own == "adamw-8bit" else own
            axes.append(Axis(name="--optimizer", values=("adamw-8bit", wide)))
        axes.append(Axis(name="--checkpointing", values=("none", "full")))
        return axes

    @work(exclusive=True, thread=True, group="frontier")
    def _search(self) -> None:
        """Predict every combination in the background."""
        worker = get_current_worker()
        axes = self.axes()
        total, done = math.prod(len(axis.values) for axis in axes), 0
        for result in in_background(
            combinations, lambda: worker.is_cancelled, self.state.plan, axes, self.state.root.absolute()
        ):
            if isinstance(result, Sweep):
                self.app.call_from_thread(self._done, result)
                return
            done += result
            if done % 8 == 0 or done == total:
                self.app.call_from_thread(self._progress, done, total)

    def _progress(self, done: int, total: int) -> None:
        self.query_one(ProgressBar).update(total=total, progress=done)
        self.query_one("#frontier-progress").display = done < total
        self.query_one("#frontier-heading", Static).update(f"{done} of {total} plans tried …")

    def _done(self, result: Sweep) -> None:
        self.result = result
        self.fill()

    def fill(self) -> None:
        """Fill the table in its order, with all points that fit or with the frontier alone."""
        result, table = self.result, self.query_one(DataTable)
        if result is None:
            return
        self.query_one("#frontier-progress").display = False
        frontier = result.frontier()
        fitting = result.fitting()
        points = fitting if self.everything else list(frontier)
        device = device_word(self.state.plan)
        what = f"All {len(points)} that fit {device}" if self.everything else f"The frontier on {device}: {len(points)}"
        tail = "" if self.everything else f" of {len(fitting)} that fit; to have more of one, give up some of another"
        self.query_one("#frontier-heading", Static).update(Text(printable(f"{what}{tail} (Enter takes one over)")))
        lines = [(self._cells(point), point) for point in points]
        lines.sort(key=lambda line: line[0][self.sorted_by][0], reverse=self.falling)
        table.clear()
        self._points = {}
        for number, (cells, point) in enumerate(lines):
            self._points[str(number)] = point
            table.add_row(*(text for _, text in cells), key=str(number))

    def _cells(self, point: Point) -> list[tuple[float | str, Text]]:
        """(what it is sorted by, what is shown) per column."""
        assert self.result is not None
        values = {axis.name: str(v) for axis, v in zip(self.result.axes, point.values, strict=True)}
        rank = values.get("--rank", "")
        batch = int(values["--batch-size"])
        tokens = batch * self.state.plan.step.seq_len
        optimizer = values.get("--optimizer") or value_in(self.state.plan, "--optimizer")
        checkpointing = values["--checkpointing"]
        style = self.ink.style(VERDICT_COLOURS[point.verdict])
        device = point.least_device_bytes
        return [
            (float(rank or 0), right(rank or "–")),
            (float(batch), right(str(batch))),
            (float(tokens), right(str(tokens))),
            (optimizer, Text(optimizer)),
            (checkpointing, Text(checkpointing)),
            (point.verdict, Text(verdict_word(point), style)),
            (float(device), right(format_bytes(device))),
            (float(point.margin_bytes), right(format_bytes(point.margin_bytes))),
        ]

    def action_sort(self) -> None:
        """Sort by the next column, descending; the first follows the last."""
        self.sort_by((self.sorted_by + 1) % len(TITLES), falling=True)

    def action_all(self) -> None:
        """Switch between all points that fit and the frontier alone."""
        self.everything = not self.everything
        self.fill()

    def sort_by(self, column: int, *, falling: bool) -> None:
        """Sort, and mark the column's title with the direction."""
        self.sorted_by, self.falling = column, falling
        table = self.query_one(DataTable)
        for i, (title, shown) in enumerate(zip(TITLES, table.ordered_columns, strict=True)):
            shown.label = Text(f"{title} {'▼' if falling else '▲'}" if i == column else title)
        self.fill()

    @on(DataTable.HeaderSelected)
    def sort_clicked(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; a second click turns the order around."""
        again = event.column_index == self.sorted_by
        self.sort_by(event.column_index, falling=not self.falling if again else True)

    @on(DataTable.RowSelected)
    def take(self, event: DataTable.RowSelected) -> None:
        """Change the plan to the chosen row."""
        point = self._points.get(str(event.row_key.value))
        if point is not None and self.result is not None:
            self.post_message(Load(self.result.flags_of(point)))
