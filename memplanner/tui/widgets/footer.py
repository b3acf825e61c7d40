"""The line of keys: Textual's, drawn anew only where the keys have changed."""

from textual.screen import Screen
from textual.widgets import Footer


class KeysFooter(Footer):
    """Textual mounts every key of its footer anew whenever the focus moves, which takes longer than all else that a Tab
    does; from field to field the keys are mostly the same.
    """

    _shown: tuple[object, ...] | None = None

    def bindings_changed(self, screen: Screen[object]) -> None:
        """Draw the keys of the focus, where they are others than those that are there."""
        keys = tuple(
            (binding, enabled, tooltip)
            for _, binding, enabled, tooltip in screen.active_bindings.values()
            if binding.show
        )
        if keys != self._shown or not screen.app.app_focus:
            self._shown = keys if screen.app.app_focus else None
            super().bindings_changed(screen)
