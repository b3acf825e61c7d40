"""Runs one training step as a plain training loop does, and calls a watch where each phase begins and ends."""

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
    """What a backend does where the phases of a step begin and end."""

    device: str

    def watching(self) -> contextlib.AbstractContextManager[Any]:
        """The context that everything that allocates runs in."""

    def on_batch(self, batch: Batch) -> None:
        """The inputs of a micro-batch have just been made."""

    def on_phase_begin(self, phase: Phase) -> None:
        """The forward pass, the backward pass or the update begins."""

    def on_phase_end(self, phase: Phase) -> None:
        """The phase ends: its peak can be read."""

    def on_host(self, tensors: list[torch.Tensor]) -> None:
        """These tensors stay on the host and are not part of the device's memory."""


class Untimed:
    """Does nothing where phases begin and end, for steps that are only timed or not read by phases."""

    def __init__(self, device: str) -> None:
        self.device = device

    def watching(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def on_batch(self, batch: Batch) -> None: ...

    def on_phase_begin(self, phase: Phase) -> None: ...

    def on_phase_end(self, phase: Phase) -> None: ...

    def on_host(self, tensors: list[torch.Tensor]) -> None: ...


def run_step(job: Job, watch: Watch) -> float | None:
    """Runs a whole optimizer step; returns the last micro-batch's loss, or None on fake tensors, which have no values.

    The `del` statements are part of what is measured: a training loop's local names decide how long tensors live.
    """
    value: float | None = None
    outlives_backward = job.keep_outputs and job.keep_outputs_until == "update"
    for _ in range(job.grad_accumulation):
        batch = job.batch()
        watch.on_batch(batch)
        watch.on_phase_begin("forward")
        with watch.watching():
            with job.autocasting(watch.device):
                output = call(job.model, batch)
            loss = loss_of(output)
            if not job.keep_outputs:
                del output
            watch.on_phase_end("loss")
            if not isinstance(loss, FakeTensor):
                value = loss.item()
            watch.on_phase_begin("backward")
            loss.backward()
            if job.keep_outputs and not outlives_backward:
                del output
            del loss
        watch.on_phase_end("backward")
    watch.on_phase_begin("update")
    with watch.watching():
        for optimizer in job.optimizers if job.stepped else ():
            optimizer.step()
        watch.on_host(job.on_host())
        if outlives_backward:
            del output
        watch.on_phase_end("update")
        for optimizer in job.optimizers if job.stepped else ():
            optimizer.zero_grad(set_to_none=not job.keep_gradients)
    del batch
    watch.on_phase_end("steady")
    return value


Around = tuple[Callable[[], None], Callable[[], None]]


@contextlib.contextmanager
def marking(at_loss: Callable[[], None], recompute: Around, update: Around) -> Iterator[None]:
    """Calls `at_loss` when a transformers model has its logits and begins its loss. Within backward, calls the two
    functions of `recompute` before and after every forward pass that checkpointing repeats, and those of `update`
    before and after every step of an optimizer.
    """
    import transformers.modeling_utils as modeling

    def marked(loss: Callable[..., Any]) -> Callable[..., Any]:
        def with_mark(*args: Any, **kwargs: Any) -> Any:
            at_loss()
            return loss(*args, **kwargs)

        return with_mark

    patched = {name: marked(loss) for name, loss in modeling.LOSS_MAPPING.items()}
    classes = torch.nn.CrossEntropyLoss, torch.nn.MSELoss
    with (
        unittest.mock.patch.object(modeling, "LOSS_MAPPING", patched),
        unittest.mock.patch.object(classes[0], "forward", marked(classes[0].forward)),
        unittest.mock.patch.object(classes[1], "forward", marked(classes[1].forward)),
        unittest.mock.patch.object(recompute_notice, "enter", recompute[0]),
        unittest.mock.patch.object(recompute_notice, "leave", recompute[1]),
        unittest.mock.patch.object(update_notice, "enter", update[0]),
        unittest.mock.patch.object(update_notice, "leave", update[1]),
    ):
        yield
