"""Callbacks around recomputations and updates inside `backward()`, where the training loop cannot see them."""

import contextlib
from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint


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


def reentrant(function: Callable[..., Any], *args: Any) -> Any:
    """torch.utils.checkpoint with use_reentrant=True, which has no context_fn: its second call is the recomputation."""
    contexts = iter(recomputing())

    def run(*inputs: Any) -> Any:
        with next(contexts):
            return function(*inputs)

    return checkpoint(run, *args, use_reentrant=True)


def recomputing() -> tuple[Any, Any]:
    """A context_fn for torch.utils.checkpoint: the contexts of the first forward pass and of its recomputation."""
    return contextlib.nullcontext(), recompute_notice
