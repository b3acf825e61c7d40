"""Tables that people pick a row from."""

from rich.text import Text
from textual.geometry import Size
from textual.widgets import DataTable


class Table(DataTable[Text]):
    """A table of rows whose columns are as wide as what is in them.

    A DataTable measures its columns in an idle moment; rows that were drawn before keep the widths of then in its
    caches, with their ends cut off. They are drawn anew.
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002  # Textual's own word
        super().__init__(id=id, cursor_type="row")

    def watch_virtual_size(self, _: Size) -> None:
        """The columns have other widths."""
        self.notify_style_update()


def right(text: str) -> Text:
    """A cell whose text ends at the column's right."""
    return Text(text, justify="right")
