"""A widget that shows lines which are drawn already."""

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget


class Picture(Widget):
    """Shows lines that were drawn for the present size. Textual's Static would style and wrap all of them again."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._lines: Sequence[Text] = ()
        self._ground = Style()

    @property
    def text(self) -> str:
        """The lines without their styles."""
        return "\n".join(line.plain for line in self._lines)

    def update(self, lines: Sequence[Text]) -> None:
        """Show these lines; widgets below are laid out again only if the number of lines changes."""
        before, self._lines = self._lines, lines
        self.refresh(layout=len(lines) != len(before))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """One row per line."""
        return len(self._lines)

    def render_lines(self, crop: Region) -> list[Strip]:
        """The visible lines, with their background found out once for all of them."""
        self._ground = self.rich_style  # finding it out takes as long as drawing a line
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """One line, with the part that the mouse has selected marked."""
        if y >= len(self._lines):
            return Strip.blank(self.size.width, self._ground)
        line, console = self._lines[y], self.app.console
        marked = None if self.text_selection is None else self.text_selection.get_span(y)
        if marked is not None:
            line = line.copy()
            line.stylize(
                self.screen.get_component_rich_style("screen--selection"),
                marked[0],
                len(line) if marked[1] == -1 else marked[1],
            )
        strip = Strip(Segment.apply_style(line.render(console), console.get_style(line.style)))
        strip = strip.apply_style(self._ground).adjust_cell_length(self.size.width, self._ground)
        return strip.apply_offsets(0, y)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The text that the mouse has selected, and the separator that follows it."""
        return selection.extract(self.text), "\n"
