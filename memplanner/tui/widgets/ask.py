"""A question over the screen: pick from a list by typing a part of it, or type a value."""

import difflib
from collections.abc import Callable, Sequence

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList
from textual.widgets.option_list import Option

from memplanner.errors import printable
from memplanner.tui.state import Choice


def matching(choices: Sequence[Choice], typed: str) -> list[Choice]:
    """Choices with every typed word in them, those that begin with it first; else the nearest spellings."""
    words = typed.casefold().split()
    hits = [c for c in choices if all(word in f"{c.value} {c.about}".casefold() for word in words)]
    if not hits and typed:
        near = difflib.get_close_matches(typed.casefold(), [c.value.casefold() for c in choices], n=5, cutoff=0.5)
        return [c for c in choices if c.value.casefold() in near]
    return sorted(hits, key=lambda c: not c.value.casefold().startswith(typed.casefold()))


class Ask(ModalScreen[str | None]):
    """Answers with what was picked or typed, or None where the user cancelled.

    free_choice: a text that matches nothing in the list is an answer too (a path, a size). check: says what is wrong
    with a typed text, or "". problem: what is wrong with the value that it begins with, or "".
    """

    BINDINGS = [
        Binding("escape", "dismiss_none", "Cancel"),
        Binding("down", "move(1)", "Next", show=False, priority=True),
        Binding("up", "move(-1)", "Previous", show=False, priority=True),
    ]

    def __init__(
        self,
        title: str,
        *,
        help_text: str = "",
        choices: Sequence[Choice] = (),
        value: str = "",
        free_choice: bool = False,
        check: Callable[[str], str] = lambda _: "",
        problem: str = "",
    ) -> None:
        super().__init__()
        self.heading, self.help_text, self.choices = title, help_text, tuple(choices)
        self.value, self.free_choice, self.check = printable(value), free_choice, check
        self.problem = problem
        self._shown: list[Choice] = []

    def compose(self) -> ComposeResult:
        """The title, a line of help, the input, and the choices that match it."""
        with Vertical(id="ask"):
            yield Label(Text(printable(self.heading), style="bold"))
            if self.help_text:
                yield Label(Text(printable(self.help_text)), id="ask-help")
            hint = "type to search" if self.choices else ""
            yield Input(value="" if self.choices else self.value, placeholder=hint, id="ask-input", compact=True)
            yield Label(Text(printable(self.problem)), id="ask-problem")
            if self.choices:
                yield OptionList(id="ask-list", compact=True)

    def on_mount(self) -> None:
        """Show the whole list, the present value highlighted."""
        self.query_one("#ask-input").focus()
        if self.choices:
            self._list("")

    def _list(self, typed: str) -> None:
        option_list = self.query_one(OptionList)
        self._shown = matching(self.choices, typed)
        wide = max((len(c.value) for c in self._shown), default=0)
        option_list.clear_options()
        for choice in self._shown:
            text = Text(choice.value.ljust(wide) if choice.about else choice.value)
            option_list.add_option(Option(text.append(f"  {choice.about}", "dim") if choice.about else text))
        at = next((i for i, c in enumerate(self._shown) if not typed and c.value == self.value), 0)
        option_list.highlighted = at if self._shown else None

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        """Narrow the list to what matches."""
        problem = self.problem if event.value == self.value else ""  # the input says its first value, too
        self.query_one("#ask-problem", Label).update(Text(printable(problem)))
        if self.choices:
            self._list(event.value)

    @on(Input.Submitted)
    def answer(self) -> None:
        """Enter: the highlighted choice, else what was typed."""
        typed = self.query_one(Input).value.strip()
        if self.choices and self._shown:
            exact = next((c.value for c in self._shown if c.value == typed), "")
            highlighted = self.query_one(OptionList).highlighted or 0
            near = self.free_choice and not any(typed.casefold() in c.value.casefold() for c in self._shown)
            self.dismiss(typed if near else exact or self._shown[highlighted].value)
            return
        problem = self.check(typed) if self.free_choice or not self.choices else "nothing matches"
        if problem:
            self.query_one("#ask-problem", Label).update(Text(printable(problem)))
        else:
            self.dismiss(typed)

    @on(OptionList.OptionSelected)
    def pick(self, event: OptionList.OptionSelected) -> None:
        """Answer with the choice that was clicked."""
        self.dismiss(self._shown[event.option_index].value)

    def action_move(self, step: int) -> None:
        """Move the highlight while the text keeps the focus."""
        if not self.choices or not self._shown:
            return
        option_list = self.query_one(OptionList)
        option_list.highlighted = ((option_list.highlighted or 0) + step) % len(self._shown)

    def action_dismiss_none(self) -> None:
        """Leave without an answer."""
        self.dismiss(None)
