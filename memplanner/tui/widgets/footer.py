"""The line of keys at the bottom."""

from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.screen import Screen
from textual.widget import Widget


class KeysFooter(Widget):
    """One line with the keys that do something where the focus is; each can be clicked as well.

    Textual's own Footer mounts a widget for every key whenever the focus moves, which takes longer than everything else
    that a press of Tab does.
    """

    DEFAULT_CSS = """
    KeysFooter { dock: bottom; height: 1; background: $footer-background; color: $footer-description-foreground; }
    KeysFooter > .keys--key { color: $footer-key-foreground; text-style: bold; }
    """
    COMPONENT_CLASSES = {"keys--key"}

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[Binding] = []
        self._ends: list[tuple[int, str]] = []

    def on_mount(self) -> None:
        """Draw the keys again whenever the focus brings others."""
        self.screen.bindings_updated_signal.subscribe(self, self._follow)

    def _follow(self, screen: Screen[object]) -> None:
        if not screen.app.app_focus:  # the terminal is in the background: keep the keys until it returns
            return
        keys = [active.binding for active in screen.active_bindings.values() if active.binding.show]
        first = {binding.action: binding for binding in reversed(keys)}  # only the first key of an action is shown
        keys = [binding for binding in keys if first[binding.action] is binding]
        if keys != self._keys:
            self._keys = keys
            self.refresh()

    def render(self) -> Text:
        """The keys and what they do; a key that there is no room for is left out, not cut off."""
        style = self.get_component_rich_style("keys--key", partial=True)
        line, self._ends = Text(no_wrap=True), []
        for binding in self._keys:
            word = Text.assemble((self.app.get_key_display(binding), style), f" {binding.description} ")
            if line.cell_len + word.cell_len - 1 > self.size.width:
                break
            line.append_text(word)
            self._ends.append((line.cell_len, binding.key))
        return line

    def on_click(self, event: events.Click) -> None:
        """Press the key that was clicked."""
        for end, key in self._ends:
            if event.x < end:
                self.app.simulate_key(key)
                return
