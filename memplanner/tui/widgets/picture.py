"""A drawn text, shown as it is."""

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget


class Picture(Widget):
    """Lines that were drawn for the room there is. Textual's Static would style and wrap the whole of them anew."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._lines: Sequence[Text] = ()
        self._ground = Style()

    @property
    def text(self) -> str:
        """What it says."""
        return "\n".join(line.plain for line in self._lines)

    def update(self, lines: Sequence[Text]) -> None:
        """Show them; what is below moves only where the height is another."""
        before, self._lines = self._lines, lines
        self.refresh(layout=len(lines) != len(before))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """A row for each of its lines."""
        return len(self._lines)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Those of its lines, and the space around them."""
        self._ground = self.rich_style  # which takes as long to find out as a line to draw
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """One of its lines."""
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
        """What is marked with the mouse, to be copied, and what ends it."""
        return selection.extract(self.text), "\n"
