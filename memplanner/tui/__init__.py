"""The terminal interface. `state` knows plans and no widgets; screens and widgets compute nothing."""

import os

os.environ.setdefault("TEXTUAL_FPS", "120")  # what a key has changed waits for at most one of Textual's frames
