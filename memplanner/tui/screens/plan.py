"""The plan: its fields on the left, its estimate on the right."""

import time
from collections.abc import Sequence

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Resize
from textual.worker import Worker, get_current_worker

from memplanner.prediction import Estimate
from memplanner.report.layout import BLANK, Line
from memplanner.report.phrases import device_word
from memplanner.report.pictures import Bar, bar_chart, breakdown_bars, device_bar, short_verdict
from memplanner.tui.background import in_background
from memplanner.tui.jobs import columns
from memplanner.tui.screens.pane import Pane
from memplanner.tui.state import PlanState, value_in
from memplanner.tui.widgets.fields import Field, FieldList
from memplanner.tui.widgets.picture import Picture

PAUSE_S = 0.12
"""Seconds after the last change before the chart's other columns are worked out, and between showing some."""


class PlanPane(Pane):
    """The plan's fields, and the verdict, breakdown and chart of its estimate."""

    DEFAULT_CSS = "PlanPane { layout: horizontal; }"

    def __init__(self, state: PlanState) -> None:
        super().__init__(state, "plan-pane")
        self._bars: list[Bar] = []
        self._axis = "--rank"
        self._room = self._rows = 0
        self._answering = self._simulating = False
        self._verdict: list[Line] = [BLANK]
        self._bar: list[Line] = [BLANK]

    def compose(self) -> ComposeResult:
        """The list of fields, and the four pictures beside it."""
        yield FieldList(self.state)
        with Vertical(id="answer"):
            yield Picture("verdict")
            yield Picture("bar")
            yield Picture("breakdown")
            yield Picture("chart")

    def on_mount(self) -> None:
        """Focus the model's field."""
        self.query(Field).first().focus()

    def on_resize(self, event: Resize) -> None:
        """Draw the pictures for the new size."""
        self.call_after_refresh(self.show)

    def show(self) -> None:
        """Draw the fields at once, the estimate after the next refresh, and the chart's other columns last."""
        self.query_one(FieldList).redraw()
        if not self._answering:
            self._answering = True
            self.call_after_refresh(self._answer)

    def _answer(self) -> None:
        self._answering = False
        estimate = self.state.estimate
        answer = self.query_one("#answer")
        width, height = max(answer.size.width - 2, 20), answer.size.height
        if not height:
            return
        if estimate.is_simulated:
            self._verdict, self._bar = short_verdict(estimate, width), device_bar(estimate, width)
        elif not self._simulating:
            self._simulating = True
            self._simulate(estimate)
        head, bar = self.ink.paint(self._verdict), self.ink.paint(self._bar)
        if self.state.problems:
            head = [head[0], Text("(of the last plan without problems)", "italic")]
        for line in () if estimate.is_simulated else (*head, *bar):  # of the plan before, until the simulation is done
            line.stylize("dim")
        for line in head if self.state.problems else ():
            line.stylize("dim")
        used = 2 + len(bar) + 2  # the verdict, the bar, two blank lines
        chart = min(max((height - used) * 2 // 5, 7), 18)
        present = sum(1 for size in estimate.at_peak.values() if size)
        self._rows = max(
            present, self._rows if height == self._room else 0
        )  # rows are added from plan to plan, never removed, so that nothing moves up
        self._room = height
        rows = min(max(height - used - chart - 1, 3), self._rows)
        self._put("#verdict", head)
        self._put("#bar", bar)
        sizes = self.ink.paint(breakdown_bars(estimate, width, rows=rows))
        self._put("#breakdown", [*sizes, *[Text()] * (rows + 1 - len(sizes))])
        self._chart_size = (width, max(height - used - rows - 1, 5))
        if estimate.is_simulated:
            self._begin_chart()
        else:  # the chart of the plan before stays until then, but gets no more columns
            self.workers.cancel_group(self, "chart")

    @work(thread=True, group="answer", description="the allocator's replay")
    def _simulate(self, estimate: Estimate) -> None:
        """Simulate the allocator in a thread, so that no key waits for it. One simulation runs at a time; after it the
        latest plan's is begun.
        """
        estimate.reserved_bytes, estimate.allocated_bytes  # noqa: B018  # computed here, and cached by the estimate
        self.app.call_from_thread(self._simulated)

    def _simulated(self) -> None:
        self._simulating = False
        if self.is_attached:
            self._answer()

    def _begin_chart(self) -> None:
        """Draw the chart with the present plan's column, and compute the others in the background."""
        state, plan = self.state, self.state.plan
        self._axis = "--batch-size" if plan.method.chosen_rank is None else "--rank"
        now = value_in(plan, self._axis)
        values = {1 << n for n in range(2, 21) if 1 << n <= state.ceiling(self._axis)}
        if self._axis == "--batch-size":
            values = {1 << n for n in range(8)}
        ordered = sorted({*values, int(now)})
        keep = max(self._chart_size[0] // 4 - 2, 4)
        if len(ordered) > keep:  # leave out the smallest values, which tell least
            ordered = sorted({*ordered[-keep:], int(now)})
        self._bars = [Bar(name=str(v), size=None) for v in ordered]
        own = Bar(name=now, size=state.estimate.device_bytes, verdict=state.estimate.verdict)
        self._bars[ordered.index(int(now))] = own
        self._draw_chart()
        self._work_out_chart()

    def _draw_chart(self) -> None:
        estimate, plan = self.state.estimate, self.state.plan
        name = "rank" if self._axis == "--rank" else "batch size"
        title = f"Device memory by {name}, {device_word(plan)}'s limit"
        width, height = self._chart_size
        now = value_in(plan, self._axis)
        chart = bar_chart(title, self._bars, estimate.limit_bytes, now, width, height)
        self._put("#chart", self.ink.paint(chart))

    def _put(self, where: str, lines: Sequence[Text]) -> None:
        for place in self.query(where).results(Picture):  # none, once the app is closing
            place.update(lines)

    @work(exclusive=True, thread=True, group="chart", description="the chart's columns")
    def _work_out_chart(self) -> None:
        """Compute the missing columns in the background, and draw them a few at a time."""
        worker = get_current_worker()
        time.sleep(PAUSE_S)
        wanted = [bar.name for bar in self._bars if bar.size is None]
        plan, root = self.state.plan, self.state.root.absolute()
        new_bars: list[Bar] = []
        shown = time.monotonic()
        for value, size, outcome in in_background(columns, lambda: worker.is_cancelled, plan, self._axis, wanted, root):
            new_bars.append(Bar(name=value, size=size, verdict=outcome))
            if time.monotonic() - shown > PAUSE_S:
                self.app.call_from_thread(self._add_bars, worker, new_bars)
                new_bars, shown = [], time.monotonic()
        self.app.call_from_thread(self._add_bars, worker, new_bars)

    def _add_bars(self, worker: Worker[None], new_bars: list[Bar]) -> None:
        if worker.is_cancelled:
            return
        by_name = {bar.name: bar for bar in new_bars}
        self._bars = [by_name.get(bar.name, bar) if bar.size is None else bar for bar in self._bars]
        self._draw_chart()
