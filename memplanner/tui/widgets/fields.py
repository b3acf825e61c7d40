"""The plan's fields as a list: one line each, changed in place."""

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widget import Widget

from memplanner.errors import printable
from memplanner.report.layout import fit, pad, wrap
from memplanner.report.palette import BAD, MUTED
from memplanner.tui.state import FIELDS, PlanState, applies, is_switch, options_for, title_of

NAME_WIDTH = 18
SLIDERS = ("--rank",)
UNSET = {"--target-modules": "the method's own", "--budget": "none", "--context": "the device's own"}
"""What is shown for an empty value."""


class Field(Widget, can_focus=True):
    """One field: its name, its value between the arrows that move it, and what is wrong with it."""

    class Moved(Message):
        """Asks the app to move the field by some steps."""

        def __init__(self, name: str, steps: int) -> None:
            super().__init__()
            self.name, self.steps = name, steps

    class Edited(Message):
        """Asks the app to let the user type or pick a value."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class Set(Message):
        """Asks the app to set the field to this value, or with None to that of the plan's file."""

        def __init__(self, name: str, value: str | None) -> None:
            super().__init__()
            self.name, self.value = name, value

    def __init__(self, name: str, state: PlanState) -> None:
        super().__init__(id=f"field-{name.removeprefix('--')}", classes="field")
        self.field, self.state = name, state
        self._drawn = Text()
        self._focusing = self._picking = False

    def render(self) -> Text:
        """The field's line, under it the slider where there is one, and the problem where there is one."""
        self._drawn = self._text()
        return self._drawn

    def redraw(self) -> None:
        """Show the present state if it differs; other lines are laid out again only if the height changes."""
        text = self._text()
        if text != self._drawn or text.spans != self._drawn.spans:
            self.refresh(layout=text.plain.count("\n") != self._drawn.plain.count("\n"))

    def _text(self) -> Text:
        state, name, width = self.state, self.field, max(self.size.width, 20)
        plan = state.plan
        dull = not applies(plan, name)
        marker = "▸" if self.has_focus else " "
        text = Text(marker).append(pad(title_of(name), NAME_WIDTH), "dim" if dull else "")
        value = "–" if dull else printable(state.text(name)) or UNSET.get(name, "auto")
        room = width - NAME_WIDTH - 1
        if name in state.problems:
            text.append(fit(f"✗ {value}", room), f"bold {BAD}")
        elif self.has_focus and not dull:
            text.append(fit(f"‹ {value} ›", room), "bold reverse")
        else:
            text.append(fit(value, room), "dim" if dull else "bold" if name in state.flags else "")
        if (
            name in SLIDERS and name not in state.problems
        ):  # the line stays even when it is empty, so that no other moves
            text.append("\n").append(Text() if dull else self._slider(width))
        if name in state.problems:
            problem = state.problems[name]
            words = problem.message + (f" ({problem.hint})" if problem.hint else "")
            for line in wrap(words, width - 2)[:3]:
                text.append(f"\n  {line}", BAD)
        return text

    def _slider(self, width: int) -> Text:
        ceiling, number = self.state.ceiling(self.field), int(self.state.text(self.field) or 1)
        room = max(width - NAME_WIDTH - 3 - len(str(ceiling)), 4)
        at = min(round(number.bit_length() / max(ceiling.bit_length(), 1) * (room - 1)), room - 1)
        bar = "━" * at + "●" + "─" * (room - 1 - at)
        return Text(" " * (NAME_WIDTH + 1) + bar).append(f" {ceiling}", MUTED)

    def on_mouse_down(self) -> None:
        """Remember whether this very press gave the field the focus: the click then only picks the field."""
        self._picking = self._focusing

    def on_click(self, event: events.Click) -> None:
        """A first click picks the field; a click on a picked field edits it, and on its arrows or slider moves it."""
        focused = not self._picking
        at = event.x - NAME_WIDTH - 1
        if self.field in SLIDERS and event.y == 1 and self.field not in self.state.problems:
            if not applies(self.state.plan, self.field):
                return
            ceiling = self.state.ceiling(self.field)
            room = max(self.size.width - NAME_WIDTH - 3 - len(str(ceiling)), 4)
            bits = round(max(min(at, room - 1), 0) / (room - 1) * ceiling.bit_length())
            self.post_message(self.Set(self.field, str(min(1 << max(bits - 1, 0), ceiling))))
        elif focused and at in (0, 1):
            self.post_message(self.Moved(self.field, -1))
        elif focused and at >= len(self.state.text(self.field)) + 2 and options_for(self.field):
            self.post_message(self.Moved(self.field, 1))
        elif focused:
            self.edit()

    def edit(self) -> None:
        """Flip a switch; ask for any other value."""
        if is_switch(self.field):
            self.post_message(self.Moved(self.field, 1))
        elif applies(self.state.plan, self.field):
            self.post_message(self.Edited(self.field))

    def on_focus(self) -> None:
        """Draw the field with the marker of the focus."""
        self._focusing = True
        self.call_later(self._has_focused)  # runs after the press that gave the focus
        self.refresh()

    def _has_focused(self) -> None:
        self._focusing = False

    def on_blur(self) -> None:
        """Draw the field without the marker."""
        self.refresh()


class FieldList(VerticalScroll, can_focus=False):
    """All fields, scrolled so that the focused one is in sight.

    The list handles the keys, for the field that has the focus at that time. If each field handled its own, keys that
    arrive together would all go to the field that had the focus before the first of them.
    """

    BINDINGS = [
        Binding("left", "move(-1)", "Change", key_display="←→"),
        Binding("right", "move(1)", "More", show=False),
        Binding("enter", "edit", "Edit"),
        Binding("space", "edit", "Edit", show=False),
        Binding("backspace,delete", "clear", "Reset", show=False),
        Binding("up", "step(-1)", "Up", show=False),
        Binding("down", "step(1)", "Down", show=False),
        Binding("home", "end(0)", "First", show=False),
        Binding("end", "end(-1)", "Last", show=False),
    ]

    def __init__(self, state: PlanState) -> None:
        super().__init__(id="fields")
        self.state = state

    def compose(self) -> ComposeResult:
        """One line per field."""
        for name in FIELDS:
            yield Field(name, self.state)

    @property
    def current(self) -> Field:
        """The focused field; the first, where none is."""
        focused = self.screen.focused
        return focused if isinstance(focused, Field) else self.query(Field).first()

    def action_step(self, step: int) -> None:
        """Focus the field so many lines further, around the ends."""
        fields = list(self.query(Field))
        self.screen.set_focus(fields[(fields.index(self.current) + step) % len(fields)])

    def action_end(self, at: int) -> None:
        """Focus the first field or the last."""
        self.screen.set_focus(list(self.query(Field))[at])

    def action_move(self, steps: int) -> None:
        """Move the focused field's value."""
        self.post_message(Field.Moved(self.current.field, steps))

    def action_edit(self) -> None:
        """Edit the focused field."""
        self.current.edit()

    def action_clear(self) -> None:
        """Reset the focused field to what the plan's file says."""
        self.post_message(Field.Set(self.current.field, None))

    def redraw(self) -> None:
        """Redraw every field whose state has changed."""
        for field in self.query(Field):
            field.redraw()
