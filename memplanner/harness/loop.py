"""One training step, phase by phase; whoever watches is told when each phase ends."""

import contextlib
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensor

from memplanner.harness.job import Batch, Job, call, loss_of
from memplanner.harness.notices import recompute_notice, update_notice
from memplanner.timeline import Phase


class Watch(Protocol):
    """What a backend does while a step runs."""

    device: str

    def watching(self) -> contextlib.AbstractContextManager[Any]:
        """Around everything that allocates."""

    def given(self, batch: Batch) -> None:
        """The inputs of a micro-batch are there."""

    def turn(self, phase: Phase) -> None:
        """From here on it is the forward pass, the backward pass or the update."""

    def close(self, phase: Phase) -> None:
        """The phase ends here."""

    def forget(self, tensors: list[torch.Tensor]) -> None:
        """These live on the host."""


class Blind:
    """Watches nothing: for steps whose time is taken."""

    def __init__(self, device: str) -> None:
        self.device = device

    def watching(self) -> contextlib.AbstractContextManager[Any]:
        """No mode."""
        return contextlib.nullcontext()

    def given(self, batch: Batch) -> None:
        """Nothing."""

    def turn(self, phase: Phase) -> None:
        """Nothing."""

    def close(self, phase: Phase) -> None:
        """Nothing."""

    def forget(self, tensors: list[torch.Tensor]) -> None:
        """Nothing."""


def run_step(job: Job, watch: Watch) -> float | None:
    """A whole optimizer step; returns the last micro-batch's loss, None on fake tensors."""
    value: float | None = None
    held_on = job.keep_outputs and job.keep_outputs_until == "update"
    for _ in range(job.grad_accumulation):
        batch = job.batch()
        watch.given(batch)
        watch.turn("forward")
        with watch.watching():
            with job.autocasting(watch.device):
                output = call(job.model, batch)
            loss = loss_of(output)
            if not job.keep_outputs:
                del output
            watch.close("loss")
            if not isinstance(loss, FakeTensor):
                value = loss.item()
            watch.turn("backward")
            loss.backward()
            if job.keep_outputs and not held_on:
                del output
            del loss
        watch.close("backward")
    watch.turn("update")
    with watch.watching():
        for optimizer in job.optimizers if job.stepped else ():
            optimizer.step()
        watch.forget(job.on_host())
        if held_on:
            del output
        watch.close("update")
        for optimizer in job.optimizers if job.stepped else ():
            optimizer.zero_grad(set_to_none=not job.keep_gradients)
    del batch
    watch.close("steady")
    return value


Around = tuple[Callable[[], None], Callable[[], None]]


@contextlib.contextmanager
def marking(at_loss: Callable[[], None], recompute: Around, update: Around) -> Iterator[None]:
    """Call `at_loss` where transformers' models begin their loss, after the logits; and inside backward `recompute`'s
    two around every forward pass that checkpointing repeats, `update`'s two around every optimizer's step.
    """
    import transformers.loss.loss_utils as losses
    import transformers.modeling_utils as modeling

    causal = losses.ForCausalLMLoss
    classify = torch.nn.CrossEntropyLoss.forward

    def causal_marked(*args: Any, **kwargs: Any) -> Any:
        at_loss()
        return causal(*args, **kwargs)

    def classify_marked(*args: Any, **kwargs: Any) -> Any:
        at_loss()
        return classify(*args, **kwargs)

    patched = {**modeling.LOSS_MAPPING, "ForCausalLM": causal_marked}
    with (
        unittest.mock.patch.object(modeling, "LOSS_MAPPING", patched),
        unittest.mock.patch.object(torch.nn.CrossEntropyLoss, "forward", classify_marked),
        unittest.mock.patch.object(recompute_notice, "enter", recompute[0]),
        unittest.mock.patch.object(recompute_notice, "leave", recompute[1]),
        unittest.mock.patch.object(update_notice, "enter", update[0]),
        unittest.mock.patch.object(update_notice, "leave", update[1]),
    ):
        yield
