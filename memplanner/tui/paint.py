"""Lines of a report's layout as Rich's styled text, for dark screens, light ones, and ones without colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from rich.style import Style
from rich.text import Text

from memplanner.report.layout import Line, Span
from memplanner.report.palette import ON_LIGHT


@cache
def _style(colour: str | None, bold: bool = False, dim: bool | None = None, reverse: bool | None = None) -> Style:
    return Style(color=colour, bold=bold, dim=dim, reverse=reverse)


@dataclass(frozen=True, slots=True)
class Ink:
    """How things are drawn: with colours or with glyphs alone, for a dark page or a light one."""

    colour: bool = True
    dark: bool = True

    def style(self, colour: str) -> Style:
        """The style of a palette's colour on this page."""
        return _style(self._shade(colour))

    def paint(self, lines: Sequence[Line]) -> list[Text]:
        """The lines as styled text."""
        return [self._painted(line) for line in lines]

    def _shade(self, colour: str) -> str | None:
        return None if not self.colour else colour if self.dark else ON_LIGHT.get(colour, colour)

    def _painted(self, line: Line) -> Text:
        """One line. Neighbouring spans of equal style are joined, because Textual's time goes by changes of style."""
        text = Text()
        for style, spans in groupby(line, key=self._style_of):
            text.append("".join(span.text if self.colour else span.plain or span.text for span in spans), style)
        return text

    def _style_of(self, span: Span) -> Style | None:
        if not (span.colour or span.bold or span.dim or span.reverse):
            return None
        return _style(
            self._shade(span.colour) if span.colour else None, span.bold, span.dim or None, span.reverse or None
        )
