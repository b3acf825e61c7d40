"""Methods side by side at equal settings, and cards side by side for this plan."""

from collections.abc import Callable, Iterator

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import DataTable, Static

from memplanner.catalogue import all_gpus
from memplanner.errors import UserError, printable
from memplanner.prediction import Estimate
from memplanner.report.palette import VERDICT_COLOURS
from memplanner.report.phrases import device_word, verdict_word
from memplanner.solve.compare import at_equal_ranks, common_rank
from memplanner.tui.screens.pane import Pane
from memplanner.tui.state import Flags, PlanState
from memplanner.tui.widgets.table import Table, right
from memplanner.units import format_bytes, format_count


class Load(Message):
    """Asks the app to lay these flags over the plan and to show it."""

    def __init__(self, flags: Flags) -> None:
        super().__init__()
        self.flags = flags


class ComparePane(Pane):
    """Two tables: methods at equal settings, and cards for the present plan."""

    def __init__(self, state: PlanState) -> None:
        super().__init__(state, "compare-pane")
        self._flags: dict[str, Flags] = {}
        self._shown: object = None

    def compose(self) -> ComposeResult:
        """A heading and a table for methods, and the same for cards."""
        yield Static(id="methods-heading", classes="heading")
        yield Table(id="methods")
        yield Static("Cards, for this plan (Enter takes one over)", classes="heading")
        yield Table(id="cards")

    def on_mount(self) -> None:
        """Add the tables' columns."""
        for table, titles in (
            ("#methods", ("Method", "", "Device", "To spare", "Peak in", "Trained")),
            ("#cards", ("Card", "", "Device", "To spare", "Limit", "Allocated")),
        ):
            self.query_one(table, DataTable).add_columns(*titles)

    def show(self) -> None:
        """Fill both tables again if the plan has changed."""
        if self._shown != self.state.plan:
            self._shown = self.state.plan
            self._fill()

    @work(exclusive=True, group="compare")
    async def _fill(self) -> None:
        """Fill the tables row by row, so that keys are answered in between."""
        import asyncio

        self._flags.clear()
        plan = self.state.plan
        heading = f"Methods at rank {common_rank(plan)}, everything else equal (Enter takes one over)"
        self.query_one("#methods-heading", Static).update(heading)
        for table, lines in (("#methods", self._methods()), ("#cards", self._cards())):
            rows = self.query_one(table, DataTable)
            rows.clear()
            for name, flags, cells in lines:
                if not rows.is_attached:
                    return
                self._flags[name] = flags
                rows.add_row(*cells, key=name)
                if name in (plan.method.kind, device_word(plan)):
                    rows.move_cursor(row=rows.row_count - 1)
                await asyncio.sleep(0.001)

    def _methods(self) -> Iterator[tuple[str, Flags, list[Text]]]:
        for flags in at_equal_ranks(self.state.plan):
            method = str(flags["--method"])
            yield method, flags, self._cells(flags, self._method_cells, method)

    def _cards(self) -> Iterator[tuple[str, Flags, list[Text]]]:
        for gpu in sorted(all_gpus(), key=lambda gpu: (gpu.total.bytes, gpu.id)):
            flags: Flags = {"--gpu": gpu.id}
            yield gpu.id, flags, self._cells(flags, self._card_cells, gpu.id)

    def _cells(self, changes: Flags, cells: Callable[[Estimate], list[Text]], *first: str) -> list[Text]:
        names = [Text(printable(word) or "–") for word in first]
        try:
            return names + cells(self.state.predict(self.state.merged(changes)))
        except UserError as error:
            return [*names, Text("no plan", "dim"), Text(printable(error.problems[0].message), "dim")]

    def _verdict(self, estimate: Estimate) -> Text:
        style = self.ink.style(VERDICT_COLOURS[estimate.verdict])
        return Text(verdict_word(estimate), style)

    def _method_cells(self, estimate: Estimate) -> list[Text]:
        return [
            self._verdict(estimate),
            right(format_bytes(estimate.device_bytes)),
            right(format_bytes(estimate.margin_bytes)),
            Text(estimate.peak_phase),
            right(format_count(estimate.num_trainable)),
        ]

    def _card_cells(self, estimate: Estimate) -> list[Text]:
        return [
            self._verdict(estimate),
            right(format_bytes(estimate.device_bytes)),
            right(format_bytes(estimate.margin_bytes)),
            right(format_bytes(estimate.limit_bytes)),
            right(format_bytes(estimate.allocated_bytes)),
        ]

    @on(DataTable.RowSelected)
    def take(self, event: DataTable.RowSelected) -> None:
        """Change the plan to the chosen row's method or card."""
        if event.row_key.value in self._flags:
            self.post_message(Load(self._flags[event.row_key.value]))
