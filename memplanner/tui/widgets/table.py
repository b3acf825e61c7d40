"""A table from which the user picks a row."""

from rich.text import Text
from textual.geometry import Size
from textual.widgets import DataTable


class Table(DataTable[Text]):
    """A table of rows whose columns are as wide as their contents.

    A DataTable measures its columns when it is idle, and rows that it drew before stay in its caches with the widths of
    that time and their ends cut off. This table draws them again.
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002  # Textual's own word
        super().__init__(id=id, cursor_type="row")

    def watch_virtual_size(self, _: Size) -> None:
        """Draw every row again when the columns change their widths."""
        self.notify_style_update()


def right(text: str) -> Text:
    """A cell whose text ends at the column's right."""
    return Text(text, justify="right")
