"""The base of every tab."""

from typing import TYPE_CHECKING, cast

from textual.containers import Vertical

from memplanner.tui.paint import Ink
from memplanner.tui.state import PlanState

if TYPE_CHECKING:
    from memplanner.tui.app import MemplannerApp


class Pane(Vertical):
    """A tab that draws the state."""

    def __init__(self, state: PlanState, name: str) -> None:
        super().__init__(id=name)
        self.state = state

    def show(self) -> None:
        """Draw the state if it differs from what is shown."""
        raise NotImplementedError

    @property
    def ink(self) -> Ink:
        """The app's present way of drawing."""
        return cast("MemplannerApp", self.app).ink
