"""Callbacks around recomputations and updates inside `backward()`, where the training loop cannot see them."""

import contextlib
from collections.abc import Callable
from typing import Any


class Notice:
    """A context manager that calls whatever functions are set as its `enter` and `leave`."""

    def __init__(self) -> None:
        self.enter: Callable[[], None] = lambda: None
        self.leave: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()


recompute_notice = Notice()
"""Entered around every forward pass that checkpointing recomputes."""

update_notice = Notice()
"""Entered around every optimizer step inside backward."""


def recomputing() -> tuple[Any, Any]:
    """A context_fn for torch.utils.checkpoint: the contexts of the first forward pass and of its recomputation."""
    return contextlib.nullcontext(), recompute_notice
