"""The step from left to right, and what is alive at the cursor."""

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll

from memplanner.report.layout import Span
from memplanner.report.phrases import PHASE_WORDS
from memplanner.report.pictures import AXIS, Stretch, step_picture, stretches, tensor_rows
from memplanner.timeline import CATEGORIES, Category
from memplanner.tui.screens.pane import Pane
from memplanner.tui.state import PlanState
from memplanner.tui.widgets.picture import Picture
from memplanner.units import format_bytes

MOST_ROWS = 60
"""The most tensors that are listed for a moment."""


class Course(Picture, can_focus=True):
    """The picture of the step, with the cursor that keys and clicks move."""

    BINDINGS = [
        Binding("left", "move(-1)", "Cursor", key_display="←→"),
        Binding("right", "move(1)", "Later", show=False),
        Binding("shift+left,pageup", "move(-10)", "Back", show=False),
        Binding("shift+right,pagedown", "move(10)", "On", show=False),
        Binding("home", "move(-100000)", "Start", show=False),
        Binding("end", "move(100000)", "End", show=False),
        Binding("g", "peak", "Peak"),
        Binding("z", "zoom", "Zoom"),
    ]

    def __init__(self, pane: "TimelinePane") -> None:
        super().__init__("course")
        self.pane = pane

    def draw(self) -> None:
        """Draw the columns for the present size, unless a key came before the tab had one and there are none yet."""
        pane = self.pane
        if not pane.steps:
            return
        width, height = self.size
        lines = step_picture(pane.drawn, pane.room, width, height, cursor=pane.cursor, base=pane.base)
        self.update(pane.ink.paint(lines))

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the column that was clicked."""
        self.focus()
        self.pane.move_to(event.x - AXIS)

    def action_move(self, steps: int) -> None:
        """Move the cursor by so many columns."""
        self.pane.move_to(self.pane.cursor + steps)

    def action_peak(self) -> None:
        """Move the cursor to the highest column."""
        self.pane.to_peak()

    def action_zoom(self) -> None:
        """Leave out the bytes that are there throughout, or show them again."""
        self.pane.zoomed = not self.pane.zoomed
        self.draw()


class TimelinePane(Pane):
    """The course of the step, and the tensors that are alive at the cursor."""

    def __init__(self, state: PlanState) -> None:
        super().__init__(state, "timeline-pane")
        self.steps: tuple[Stretch, ...] = ()
        self.cursor = 0
        self.room = 0
        self.zoomed = False
        self._seen: object = None

    @property
    def constant(self) -> dict[Category, int]:
        """The bytes by category that are there from the forward pass to the end; empty unless they are left out."""
        if not self.zoomed:
            return {}
        stepping = [step.by_category for step in self.steps if step.phase != "load"]
        return {c: min(sizes[c] for sizes in stepping) for c in CATEGORIES}

    @property
    def base(self) -> int:
        """The bytes that the picture leaves out."""
        return sum(self.constant.values())

    @property
    def drawn(self) -> list[Stretch]:
        """The stretches without the bytes that are left out."""
        constant = self.constant
        return [
            step.replaced(by_category={c: max(n - constant.get(c, 0), 0) for c, n in step.by_category.items()})
            for step in self.steps
        ]

    def compose(self) -> ComposeResult:
        """The picture of the step, and below it the tensors at the cursor."""
        yield Course(self)
        yield Picture("moment")
        with VerticalScroll(id="alive-scroll"):
            yield Picture("alive")

    def on_resize(self) -> None:
        """Draw as many columns as there is room for now."""
        self.call_after_refresh(self.show)

    def show(self) -> None:
        """Read the step from the estimate, with the cursor at its peak, unless it is shown already."""
        room = self.query_one(Course).size
        width = room.width - AXIS - 1
        if width < 8:
            return
        estimate = self.state.estimate
        seen = (estimate.plan, room, self.ink)
        if seen == self._seen:
            return
        self._seen = seen
        self.steps = stretches(estimate, width)
        self.room = estimate.tensor_room_bytes
        self.to_peak()

    def to_peak(self) -> None:
        """Move the cursor to the highest column, the first of equals."""
        sizes = [step.size for step in self.steps]
        self.move_to(sizes.index(max(sizes)) if sizes else 0)

    def move_to(self, column: int) -> None:
        """Move the cursor to a column, and list what is alive there."""
        if not self.steps:
            return
        self.cursor = max(0, min(column, len(self.steps) - 1))
        step = self.steps[self.cursor]
        rows = self.state.estimate.timeline.rows_at(step.moment)
        width = max(self.query_one("#alive-scroll").size.width - 2, 20)
        words = f"{format_bytes(step.size)} alive in {PHASE_WORDS[step.phase]}: {len(rows)} rows, largest first"
        lines = tensor_rows(rows[:MOST_ROWS], step.size, width)
        if len(rows) > MOST_ROWS:
            lines.append((Span(f"{len(rows) - MOST_ROWS} smaller ones more"),))
        self.query_one("#moment", Picture).update([Text(words)])
        self.query_one("#alive", Picture).update(self.ink.paint(lines))
        self.query_one("#alive-scroll").scroll_home(animate=False)
        self.query_one(Course).draw()
