"""The fake backend: a plan's real modules and optimizer on fake tensors, every live byte counted, phase by phase."""

import contextlib
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memplanner.architectures.reader import read_config
from memplanner.harness.build import AUTOCAST, build, optimizer_for
from memplanner.harness.kernels import cuda_memory
from memplanner.harness.live import LiveBytes, fake_parameters
from memplanner.plan import TrainingPlan
from memplanner.profiles import find_model
from memplanner.tape.attention import choose_kernel
from memplanner.tape.context import PRECISIONS
from memplanner.timeline import Phase, PhasePeak


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A traced step: each phase's peak and end, and exact bytes and counts of the parameters.

    log: with logging on, (bytes, what) of every birth and death by phase.
    """

    phases: tuple[PhasePeak, ...]
    parameter_bytes: int
    trainable_bytes: int
    num_parameters: int
    num_trainable: int
    log: dict[Phase, list[tuple[int, str]]]

    def peak(self, name: Phase) -> int:
        """The peak of one phase, in bytes."""
        return next(p.peak_bytes for p in self.phases if p.name == name)


def trace(plan: TrainingPlan, *, root: Path = Path(), log: bool = False, steps: int = 2) -> Trace:
    """Run `steps` training steps and report the last; the first makes the optimizer's states."""
    model, family = build(plan, root)
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    fake_parameters(model, mode)
    params = [p for p in model.parameters() if p.requires_grad]
    step = plan.step
    meter = LiveBytes(log=log)
    peaks: dict[Phase, PhasePeak] = {}
    logs: dict[Phase, list[tuple[int, str]]] = {}

    def close(name: Phase) -> None:
        peaks[name] = PhasePeak(name=name, peak_bytes=meter.peak, end_bytes=meter.live)
        logs[name] = list(meter.log or ())
        meter.reset()

    with mode, cuda_memory(_kernel(plan, root)), _marking(lambda: close("forward")):
        for tensor in (*model.parameters(), *model.buffers()):
            meter.track(tensor)
        meter.reset()
        close("load")
        optimizers = _optimizers(plan, params, meter)
        for _ in range(steps):
            for _ in range(step.grad_accumulation):
                tokens = torch.empty((step.batch_size, step.seq_len), dtype=torch.long)
                labels = torch.empty((step.batch_size,) if family.classifier else tokens.shape, dtype=torch.long)
                inputs: dict[str, Any] = {} if family.classifier else {"use_cache": False}
                if step.padding:
                    inputs["attention_mask"] = torch.empty(tokens.shape, dtype=torch.long)
                    meter.track(inputs["attention_mask"])
                meter.reset()
                meter.track(tokens)
                meter.track(labels)
                with meter:
                    with _autocast(plan):
                        output = model(input_ids=tokens, labels=labels, **inputs)
                    loss = output.loss
                    if not step.keep_outputs:
                        del output
                    close("loss")
                    meter.in_backward = True
                    loss.backward()
                    meter.in_backward = False
                    if step.keep_outputs:
                        del output
                    del loss
                close("backward")
            with meter:
                for optimizer in optimizers:
                    optimizer.step()
                    _forget_step_counts(meter, optimizer)
                close("update")
                if not step.per_layer_updates:
                    for optimizer in optimizers:
                        optimizer.zero_grad(set_to_none=not step.keep_gradients)
            del tokens, labels, inputs
            close("steady")
    counted = {id(p): p for p in model.parameters()}.values()
    order: tuple[Phase, ...] = ("load", "forward", "loss", "backward", "update", "steady")
    steady = peaks["steady"]
    peaks["steady"] = PhasePeak(name="steady", peak_bytes=steady.end_bytes, end_bytes=steady.end_bytes)
    return Trace(
        phases=tuple(peaks[name] for name in order),
        parameter_bytes=sum(p.numel() * p.element_size() for p in counted),
        trainable_bytes=sum(p.numel() * p.element_size() for p in params),
        num_parameters=sum(p.numel() for p in counted),
        num_trainable=sum(p.numel() for p in params),
        log=logs,
    )


def _forget_step_counts(meter: LiveBytes, optimizer: torch.optim.Optimizer) -> None:
    """torch's optimizers keep their step counts on the host, unless fused."""
    for group in optimizer.param_groups:
        if not group.get("fused"):
            for param in group["params"]:
                count = optimizer.state[param].get("step")
                if isinstance(count, torch.Tensor):
                    meter.forget(count)


def _optimizers(plan: TrainingPlan, params: list[torch.nn.Parameter], meter: LiveBytes) -> list[torch.optim.Optimizer]:
    """One optimizer over all parameters; with per-layer updates one each, stepping from a hook."""
    if not plan.step.per_layer_updates:
        return [optimizer_for(plan, params)]
    for param in params:
        own = optimizer_for(plan, [param])

        def update(param: torch.Tensor, own: torch.optim.Optimizer = own) -> None:
            own.step()
            _forget_step_counts(meter, own)
            own.zero_grad()

        param.register_post_accumulate_grad_hook(update)
    return []


def _kernel(plan: TrainingPlan, root: Path) -> str:
    """The attention kernel that the analytic model takes for this plan on a card with all of them."""
    profile = find_model(plan.model, root)
    family, config = read_config(profile.config, profile.name)
    weight, autocast = PRECISIONS[plan.precision]
    heads = family.heads(config)
    return choose_kernel(
        plan.step.attention,
        autocast or weight,
        groups=heads[0],
        head_dim=heads[1],
        compute_capability=8.0,
        masked=plan.step.padding,
    )


def _autocast(plan: TrainingPlan) -> Any:
    dtype = AUTOCAST.get(plan.precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)


@contextlib.contextmanager
def _marking(at_loss: Callable[[], None]) -> Iterator[None]:
    """Call `at_loss` where the loss begins: after the logits, inside the model's forward."""
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
    ):
        yield
