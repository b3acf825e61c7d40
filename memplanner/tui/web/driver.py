"""Textual's driver for browsers, in an app process that ends when its server does."""

from textual import messages
from textual.drivers.web_driver import WebDriver


class Driver(WebDriver):
    """Reads what the browser sends from standard input. Its end is the end of the app: the tab was closed, or the
    server is gone, however it ended.
    """

    def run_input_thread(self) -> None:
        """Read until there is no more, then leave."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            self._app.post_message(messages.ExitApp())
