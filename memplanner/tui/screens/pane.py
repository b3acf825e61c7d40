"""What every tab is."""

from typing import TYPE_CHECKING, cast

from textual.containers import Vertical

from memplanner.tui.paint import Ink
from memplanner.tui.state import PlanState

if TYPE_CHECKING:
    from memplanner.tui.app import MemplannerApp


class Pane(Vertical):
    """A tab: it shows the state, in the app's ink."""

    def __init__(self, state: PlanState, name: str) -> None:
        super().__init__(id=name)
        self.state = state

    def show(self) -> None:
        """Draw the state, where it is another one than is shown."""
        raise NotImplementedError

    @property
    def ink(self) -> Ink:
        """How the app draws at present."""
        return cast("MemplannerApp", self.app).ink
