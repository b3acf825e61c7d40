"""What the keys do."""

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

PAGES = (
    (
        "Anywhere",
        (
            ("1 2 3 4 5", "plan, timeline, compare, frontier, runs"),
            ("Tab, Shift+Tab", "to the next part of the screen, and back"),
            ("w", "what would make it fit, and the largest rank, batch or sequence that does"),
            ("s", "save the plan as a file"),
            ("y", "copy the command that asks the same"),
            ("e", "export the screen as SVG and the report as Markdown"),
            ("u", "undo the last change"),
            ("d", "dark or light"),
            ("Ctrl+P", "every command by name"),
            ("q", "leave"),
        ),
    ),
    (
        "1 Plan",
        (
            ("↑ ↓", "to another field"),
            ("← →", "the field's next value; ranks and lengths by factors of two"),
            ("Enter", "type a value, or search a list"),
            ("⌫", "back to what the plan's file says"),
        ),
    ),
    (
        "2 Timeline",
        (
            ("← →", "move the cursor; with Shift by ten"),
            ("g", "to the peak"),
            ("z", "leave out what is there throughout, or show all again"),
        ),
    ),
    ("3 Compare", (("Enter", "take the method or the card over into the plan"),)),
    ("4 Frontier", (("Enter", "take the row over"), ("o", "sort by the next column"), ("a", "all that fit"))),
    ("5 Runs", (("p", "run the plan on this machine"), ("x", "cancel the run"))),
)
WORDS = (
    "allocated: live tensors, at the step's highest moment. fragmentation: what PyTorch's allocator holds beside them. "
    "context: CUDA's own. Together they are what nvidia-smi shows. tight: it fits, but by less than such predictions "
    "have been off."
)


class Help(ModalScreen[None]):
    """Every key, by screen."""

    BINDINGS = [Binding("escape,question_mark,q,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """The keys in two columns, and below them the words that reports use."""
        grid = Table.grid(padding=(0, 1))
        for title, keys in PAGES:
            grid.add_row(Text(title, "bold underline"))
            for key, what in keys:
                grid.add_row(Text(f"  {key}", "bold"), Text(what))
        with VerticalScroll(id="help"):
            yield Static(grid)
            yield Static(Text("Words", "bold underline"))
            yield Static(Text(WORDS))

    def on_mount(self) -> None:
        """Focus the text, so that the arrow keys scroll it."""
        self.query_one("#help").focus()

    async def action_dismiss(self, result: None = None) -> None:
        """Return to the screen below, without an answer."""
        self.dismiss(None)
