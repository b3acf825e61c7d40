"""Callbacks around what happens inside a backward pass, where no caller could count it."""

import contextlib
from collections.abc import Callable
from typing import Any


class Notice:
    """A context that whoever runs a step may hang callbacks on."""

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
