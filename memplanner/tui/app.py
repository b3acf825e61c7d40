"""The application: five tabs over one plan."""

import gc
import sys
from collections.abc import Iterable
from os.path import lexists
from pathlib import Path
from typing import Any

from textual import on, work
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import TabbedContent, TabPane
from textual.worker import get_current_worker

from memplanner.errors import UserError, printable
from memplanner.plan.flags import command_line
from memplanner.report.check_text import PlanAnswer
from memplanner.report.phrases import device_word
from memplanner.report.terminal import Page
from memplanner.report.writers import CHECK
from memplanner.tui.background import in_background
from memplanner.tui.export import can_be_saved, save_plan, save_report
from memplanner.tui.jobs import ways_to_fit
from memplanner.tui.paint import Ink
from memplanner.tui.screens.compare import ComparePane, Load
from memplanner.tui.screens.frontier import FrontierPane
from memplanner.tui.screens.measured import MeasuredPane
from memplanner.tui.screens.pane import Pane
from memplanner.tui.screens.plan import PlanPane
from memplanner.tui.screens.timeline import Course, TimelinePane
from memplanner.tui.state import Choice, Flags, PlanState, about, applies, options_for, title_of
from memplanner.tui.widgets.ask import Ask
from memplanner.tui.widgets.fields import Field
from memplanner.tui.widgets.footer import KeysFooter
from memplanner.tui.widgets.help import Help

TABS = {"plan": "Plan", "timeline": "Timeline", "compare": "Compare", "frontier": "Frontier", "measured": "Runs"}


class MemplannerApp(App[None]):
    """memplanner's terminal interface. records: a folder of recorded runs, to read and to add to."""

    TITLE = "memplanner"
    CSS_PATH = "styles.tcss"
    BINDINGS = [
        *(Binding(str(n), f"tab('{name}')", title, show=False) for n, (name, title) in enumerate(TABS.items(), 1)),
        Binding("w", "what_fits", "What fits"),
        Binding("s", "save", "Save"),
        Binding("y", "copy", "Copy"),
        Binding("e", "export", "Export"),
        Binding("u", "undo", "Undo"),
        Binding("d", "toggle_dark", "Dark/light", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, state: PlanState, *, records: Path | None = None) -> None:
        super().__init__()
        self.state = state
        self.records = records

    @property
    def ink(self) -> Ink:
        """How pictures are drawn: for the theme's page, and with glyphs where there is no colour."""
        return Ink(colour=not self.no_color, dark=self.current_theme.dark)

    def compose(self) -> ComposeResult:
        """The five tabs, with the line of keys under them."""
        panes = (
            PlanPane(self.state),
            TimelinePane(self.state),
            ComparePane(self.state),
            FrontierPane(self.state),
            MeasuredPane(self.state, self.records),
        )
        with TabbedContent(initial="plan"):
            for number, ((name, title), pane) in enumerate(zip(TABS.items(), panes, strict=True), 1):
                with TabPane(f"{number} {title}", id=name):
                    yield pane
        yield KeysFooter()

    def on_mount(self) -> None:
        """Redraw when the theme changes; keep pauses short, so that keys are answered while threads work."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 50, 1000)  # tapes die by reference counts; a full collection takes 100 ms
        sys.setswitchinterval(0.001)
        self.theme_changed_signal.subscribe(self, lambda _: self.call_after_refresh(self.show))

    # -- what is shown -------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Draw the active tab from the state; the others draw themselves when they are looked at."""
        self.pane.show()

    @property
    def pane(self) -> Pane:
        """The active tab's content."""
        active = self.query_one(TabbedContent).active or "plan"
        return self.query_one(f"#{active}-pane")  # type: ignore[return-value]

    @on(TabbedContent.TabActivated)
    def tab_shown(self) -> None:
        """Draw the tab after the refresh that gives it its size."""
        if self.state.problems and self.pane.id != "plan-pane":
            self.notify("This is of the last plan without problems", severity="warning")
        self.call_after_refresh(self.show)

    def action_tab(self, name: str) -> None:
        """Go to a tab and focus its first part.

        The tab that is left loses the focus first. Textual would hand it on to a part beside the focused one while the
        tab is being hidden, and a part that is focused brings its own tab back.
        """
        self.screen.set_focus(None)
        self.query_one(TabbedContent).active = name
        self.call_after_refresh(self._focus_in)

    def _focus_in(self) -> None:
        self.show()
        pane = self.pane
        wanted = Field if isinstance(pane, PlanPane) else Course if isinstance(pane, TimelinePane) else "DataTable"
        if not (self.focused and pane in self.focused.ancestors):
            self.screen.set_focus(pane.query(wanted).first(Widget))

    # -- changing the plan ---------------------------------------------------------------------------------------

    @on(Field.Moved)
    def move_field(self, event: Field.Moved) -> None:
        """Move a field's value, or ask for one that keys cannot move."""
        if not applies(self.state.plan, event.name):
            return
        value = self.state.moved(event.name, event.steps)
        if value is None:
            self.action_ask(event.name)
        else:
            self.set_field(event.name, value)

    @on(Field.Set)
    def put_field(self, event: Field.Set) -> None:
        """Set a field to the slider's value, or reset it to the file's."""
        if event.value is None:
            self.state.reset(event.name)
            self.show()
        else:
            self.set_field(event.name, event.value)

    def set_field(self, name: str, value: str | bool) -> None:
        """Set a field's value and draw the plan that results."""
        self.state.set(name, value)
        self.show()

    @on(Field.Edited)
    def edit_field(self, event: Field.Edited) -> None:
        """Ask for the value of a field on which Enter was pressed."""
        self.action_ask(event.name)

    def action_ask(self, name: str) -> None:
        """Ask for a field's value, unless another question is open: keys may have been typed ahead."""
        if len(self.screen_stack) > 1:
            return
        question = Ask(
            title_of(name).capitalize() if title_of(name).islower() else title_of(name),
            help_text=about(name),
            choices=options_for(name),
            value=self.state.text(name),
            free_choice=name in ("model", "--gpu", "--checkpointing"),
        )

        def answered(value: str | None) -> None:
            if value is None:
                return
            if value == "":
                self.state.reset(name)
                self.show()
            else:
                self.set_field(name, value)

        self.push_screen(question, answered)

    @on(Load)
    def load(self, event: Load) -> None:
        """Change the plan to the row that was chosen in another tab."""
        self.state.change(event.flags)
        self.action_tab("plan")
        self.show()
        words = ", ".join(f"{title_of(name)} {value}" for name, value in event.flags.items())
        self.notify(printable(words), title="Taken over (u takes it back)", markup=False)

    def action_undo(self) -> None:
        """Take the last change back."""
        if self.state.undo():
            self.show()
        else:
            self.notify("Nothing to undo")

    # -- what would fit ------------------------------------------------------------------------------------------

    def action_what_fits(self) -> None:
        """Find out in the background what would make the plan fit, and then offer it."""
        if not self._has_problems():
            self.notify("Working out what would fit …", timeout=1.5)
            self._work_out_what_fits()

    def _has_problems(self) -> bool:
        """Whether the fields on the screen have problems; notifies the user if so."""
        if self.state.problems:
            self.notify("The plan has problems: they are marked at their fields", severity="error")
        return bool(self.state.problems)

    @work(exclusive=True, thread=True, group="fit", description="what would fit")
    def _work_out_what_fits(self) -> None:
        worker = get_current_worker()
        ways = list(
            in_background(ways_to_fit, lambda: worker.is_cancelled, self.state.plan, self.state.root.absolute())
        )
        if not worker.is_cancelled:
            self.call_from_thread(self._offer, ways)

    def _offer(self, ways: list[tuple[Choice, Flags]]) -> None:
        if len(self.screen_stack) > 1:  # something else has been asked in the meantime
            return
        if not ways:
            self.notify("No single change makes this plan fit, and not even rank, batch or sequence 1 does")
            return
        by_value = {choice.value: flags for choice, flags in ways}
        question = Ask("What would fit", choices=[choice for choice, _ in ways])

        def answered(value: str | None) -> None:
            if value is not None:
                self.state.change(by_value[value])
                self.show()

        self.push_screen(question, answered)

    # -- leaving with something ----------------------------------------------------------------------------------

    @property
    def shut_in(self) -> Path | None:
        """The folder that files may be written in; None for anywhere. In a browser, the one it was started in."""
        return Path() if self.is_web else None

    def action_save(self) -> None:
        """Ask for a file name and write the plan."""
        if not self._has_problems():
            self._ask_for_a_file("memplanner.toml")

    def _ask_for_a_file(self, name: str, problem: str = "") -> None:
        """Ask under which name to save. problem: why the plan could not be saved under this one."""
        question = Ask(
            "Save the plan as",
            help_text="TOML; `memplanner check` finds memplanner.toml by itself, others with --plan FILE.",
            value=name,
            problem=problem,
            check=lambda text: can_be_saved(text, inside=self.shut_in),
        )

        def answered(name: str | None) -> None:
            if name is None:
                return
            if lexists(Path(name).expanduser()):
                choices = (
                    Choice(value="keep", about="leave the file as it is"),
                    Choice(value="replace", about="write over it"),
                )
                again = Ask(f"{printable(name)} exists", choices=choices, value="keep")
                self.push_screen(again, lambda word: self._save(name, replacing=True) if word == "replace" else None)
            else:
                self._save(name, replacing=False)

        self.push_screen(question, answered)

    def _save(self, name: str, *, replacing: bool) -> None:
        """Write the plan; where that fails, say why and ask again, with the name that was typed."""
        path = Path(name).expanduser()
        try:
            save_plan(self.state.plan, path, self.state.root, replacing=replacing, inside=self.shut_in)
        except UserError as error:
            self._ask_for_a_file(name, str(error))
        else:
            command = command_line(["memplanner", "check", "--plan", str(path)])
            where = f" in {Path.cwd()}" if self.is_web else ""
            self.notify(printable(command), title=printable(f"Saved{where}; ask for it with"), markup=False)

    def action_copy(self) -> None:
        """Copy the command to the clipboard, and show it for terminals whose clipboard is out of reach."""
        if self._has_problems():
            return
        self.copy_to_clipboard(self.state.command)
        self.notify(printable(self.state.command), title="Copied", markup=False)

    def action_export(self) -> None:
        """Write the screen as SVG and the report as Markdown, under one name."""
        plan = self.state.plan
        svg = self.export_screenshot(title=printable(f"memplanner: {plan.model} on {device_word(plan)}"))
        answer = PlanAnswer(estimate=self.state.estimate, label=self.state.source.label)
        markdown = CHECK.write("markdown", answer, Page())
        try:
            paths = save_report(svg, markdown, Path("memplanner-report"))
        except UserError as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            where = f" to {Path.cwd()}" if self.is_web else ""
            self.notify(" and ".join(map(str, paths)), title=printable(f"Exported{where}"), markup=False)

    # -- the rest ------------------------------------------------------------------------------------------------

    def action_help(self) -> None:
        """Show what every key does."""
        self.push_screen(Help())

    def action_toggle_dark(self) -> None:
        """Switch between the dark theme and the light one."""
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The command palette: the app's own commands before Textual's."""
        for name, title in TABS.items():
            yield SystemCommand(f"Go to {title}", f"The {title.lower()} tab", lambda name=name: self.action_tab(name))
        yield SystemCommand("What would fit", "Changes that make the plan fit, largest values", self.action_what_fits)
        yield SystemCommand("Save plan", "Write the plan as a TOML file", self.action_save)
        yield SystemCommand("Copy command", "The command line that asks the same", self.action_copy)
        yield SystemCommand("Export", "Screen as SVG, report as Markdown", self.action_export)
        yield SystemCommand("Undo", "Take the last change back", self.action_undo)
        for name in ("model", "--gpu", "--method", "--rank"):
            title = title_of(name)
            yield SystemCommand(f"Choose {title}", about(name), lambda name=name: self.action_ask(name))
        for command in super().get_system_commands(screen):
            if command.title != "Screenshot":  # Export takes one, and never over a file that is there
                yield command
