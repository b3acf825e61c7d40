"""Callbacks around recomputation and updates within a backward pass, whose caller cannot see them."""

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
"""Around every forward pass that checkpointing recomputes."""

update_notice = Notice()
"""Around every optimizer's step inside backward."""


def recomputing() -> tuple[Any, Any]:
    """torch.utils.checkpoint's context_fn: contexts of the first pass and of the recomputed one."""
    return contextlib.nullcontext(), recompute_notice
