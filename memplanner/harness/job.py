"""A job: a model, its optimizers and its batches, made from a plan or by a user's own function."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from memplanner.catalogue import find_model
from memplanner.errors import Problem, UserError
from memplanner.gradnormlorp import GradNormLoRPAdamW
from memplanner.harness.builders.models import AUTOCAST, build, settings_of
from memplanner.harness.builders.optimizers import optimizers_for
from memplanner.harness.corpus import token_ids
from memplanner.harness.live_bytes import fake_parameters
from memplanner.harness.quantised import fake_quantised
from memplanner.plan.training_plan import TrainingPlan
from memplanner.timeline import Category, Phase

Batch = Mapping[str, torch.Tensor]

PER_SEQUENCE = ("sequence-classification", "question-answering")
"""Tasks with one label, or two, for each sequence."""


@dataclass(kw_only=True)
class Job:
    """A training step that can be repeated.

    batch: makes the inputs of the next micro-batch. stepped: whether the loop calls the optimizers' step() after
    backward; otherwise they step within it. tokens_per_step: of all micro-batches together; 0 where it is unknown.
    """

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    batch: Callable[[], Batch]
    autocast: torch.dtype | None = None
    grad_accumulation: int = 1
    keep_gradients: bool = False
    keep_outputs: bool = False
    keep_outputs_until: Literal["backward", "update"] = "backward"
    stepped: bool = True
    refreshes: bool = False
    """Whether the optimizers recompute subspaces at intervals."""
    tokens_per_step: int = 0
    has_other_parts: bool = False
    """Whether the model has parts that its batches may not run, such as a tower for images."""
    unreached: frozenset[int] = frozenset()
    """Identities of the parameters that learn but get no gradient, as far as `find_unreached` has been called."""
    on_gradient: list[Callable[[nn.Parameter], None]] = field(default_factory=list)
    """Called as soon as a parameter's gradient is complete, before an update inside backward uses it up."""
    batches_made: int = field(default=0, init=False)

    def trained(self) -> list[nn.Parameter]:
        """The parameters that learn."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def reached(self) -> list[nn.Parameter]:
        """The parameters that learn and get gradients."""
        return [p for p in self.trained() if id(p) not in self.unreached]

    def find_unreached(self, device: str) -> None:
        """See which parameters get no gradient, by a forward and a backward pass."""
        with self.autocasting(device):
            loss = loss_of(call(self.model, self.batch()))
        loss.backward()
        self.unreached = frozenset(id(p) for p in self.trained() if p.grad is None)
        for param in self.trained():
            param.grad = None

    @property
    def updates_in(self) -> Phase:
        """The phase in which parameters are updated."""
        return "update" if self.stepped else "backward"

    def autocasting(self, device: str) -> Any:
        """The context of the forward pass."""
        return contextlib.nullcontext() if self.autocast is None else torch.autocast(device, dtype=self.autocast)

    def make_states(self) -> None:
        """Let the optimizers make their states, from empty gradients, which spares a forward and a backward pass."""
        for param in self.reached():
            param.grad = torch.empty_like(param)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=not self.keep_gradients)

    def refresh_next(self) -> None:
        """Make the next step recompute every subspace."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if isinstance(optimizer, GradNormLoRPAdamW):
                    for param in group["params"]:
                        if "taken" in optimizer.state[param]:
                            optimizer.state[param]["taken"] = group["refresh_interval"]
                else:
                    for param in group["params"]:
                        projector = optimizer.state[param].get("projector")
                        if projector is not None:  # galore_torch refreshes when the interval divides the step
                            projector.update_proj_gap = 1

    def refresh_no_more(self) -> None:
        """Restore the refresh intervals that the parameter groups ask for."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for param in group["params"]:
                    projector = optimizer.state[param].get("projector")
                    if projector is not None and not isinstance(optimizer, GradNormLoRPAdamW):
                        projector.update_proj_gap = group["update_proj_gap"]

    def tensors(self) -> dict[Category, list[torch.Tensor]]:
        """Every tensor that outlives a step, and the gradients that exist now, by category."""
        by_category: dict[Category, list[torch.Tensor]] = {"parameters": [], "adapters": [], "gradients": []}
        by_category["optimizer_state"], by_category["projectors"] = [], []
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            by_category["adapters" if self._is_adapter(name) else "parameters"].append(tensor)
            by_category["parameters"] += quantisation_of(tensor)
            if isinstance(tensor, nn.Parameter) and tensor.grad is not None:
                by_category["gradients"].append(tensor.grad)
        by_category["parameters"] += _shared_code_books(self.model)
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                for key, value in state.items():
                    category: Category = "projectors" if key in _PROJECTORS else "optimizer_state"
                    if not _on_host(optimizer, key, value):
                        by_category[category] += tensors_in(value)
            if isinstance(optimizer, GradNormLoRPAdamW):
                by_category["optimizer_state"] += tensors_in(optimizer._code_books)
        return by_category

    def _is_adapter(self, name: str) -> bool:
        """Whether a method has added the tensor of this name to the model."""
        parts = name.split(".")
        return ".lora_" in name or parts[-1] in _GRADNORMLORP or not self._added_by_peft.isdisjoint(parts)

    @cached_property
    def _added_by_peft(self) -> frozenset[str]:
        """Names of the submodules that peft's layers add to the layer that they wrap, as each tuner lists them. The
        copy of a head that peft trains is listed too, but is no adapter: its module wraps no layer.
        """
        names: set[str] = set()
        for module in (m for m in self.model.modules() if hasattr(m, "base_layer")):
            listed = (*getattr(module, "adapter_layer_names", ()), *getattr(module, "other_param_names", ()))
            names |= {name for name in listed if isinstance(getattr(module, name, None), nn.Module)}
        return frozenset(names)

    def on_host(self) -> list[torch.Tensor]:
        """The step counts of the optimizers, which torch keeps on the host unless they are fused, and paged states."""
        return [
            value
            for optimizer in self.optimizers
            for state in optimizer.state.values()
            for key, value in state.items()
            if isinstance(value, torch.Tensor) and _on_host(optimizer, key, value)
        ]


_PROJECTORS = ("left", "right", "projector")


_GRADNORMLORP = ("factor_i", "factor_j", "magnitude", "row_squares")
"""What memplanner.gradnormlorp adds to a layer."""


def _on_host(optimizer: torch.optim.Optimizer, key: str, value: Any) -> bool:
    return getattr(value, "is_paged", False) or (key == "step" and not optimizer.defaults.get("fused"))


def _shared_code_books(model: nn.Module) -> list[torch.Tensor]:
    """The tables that bitsandbytes keeps once for all weights whose scales are quantised."""
    states = (getattr(param, "quant_state", None) for param in model.parameters())
    if not any(state is not None and state.nested for state in states):
        return []
    from bitsandbytes.functional import name2qmap

    return list(name2qmap.values())


def quantisation_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The scales and tables that bitsandbytes keeps with a quantised weight; none for any other tensor."""
    state = getattr(tensor, "quant_state", None)
    scales = []
    while state is not None:
        scales += [t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor)]
        state = state.state2
    return scales + [t for t in (getattr(tensor, "CB", None), getattr(tensor, "SCB", None)) if t is not None]


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of an optimizer's state, however it is nested."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)
    elif hasattr(value, "ortho_matrix"):
        yield from tensors_in(value.ortho_matrix)


def job_of_plan(plan: TrainingPlan, root: Path, device: str, fake_mode: Any = None) -> Job:
    """Make the plan's job, with random weights and real text, on "cuda" or "cpu"; with a fake mode on fake tensors.

    Raises as `build` and `optimizers_for` do for plans that cannot be built.
    """
    model, _ = build(plan, root, device="meta" if fake_mode is not None else device)
    _, settings = settings_of(plan, root)
    if fake_mode is not None:
        fake_parameters(model, fake_mode)
        fake_quantised(model, fake_mode)
    step = plan.step
    vocab_size = int(model.config.get_text_config().vocab_size)  # type: ignore[union-attr,operator]
    task, num_labels = settings.task, settings.num_labels

    def batch() -> Batch:
        shape = (step.batch_size, step.seq_len)
        placement: dict[str, Any] = {"device": "cpu" if fake_mode is not None else device, "dtype": torch.long}
        if fake_mode is not None:
            tokens = torch.empty(shape, **placement)
            labels = torch.empty(shape[:1] if task in PER_SEQUENCE else shape, **placement)
            if settings.is_regression:
                labels = torch.empty(shape[:1], device="cpu")
        else:
            count = shape[0] * shape[1]
            tokens = torch.tensor(token_ids(job.batches_made * count, count, vocab_size), **placement).view(shape)
            classes = {"sequence-classification": num_labels, "token-classification": num_labels}.get(task, shape[1])
            places = torch.arange(shape[0], **placement) % classes
            labels = (
                places
                if task in PER_SEQUENCE
                else tokens.clone() % (classes if task == "token-classification" else vocab_size)
            )
            if settings.is_regression:
                labels = places.float()
        batch_tensors = {"input_ids": tokens, "labels": labels}
        if task == "question-answering":
            batch_tensors = {"input_ids": tokens, "start_positions": labels, "end_positions": labels.clone()}
        if step.padding:
            mask = torch.empty(shape, **placement) if fake_mode is not None else torch.ones(shape, **placement)
            if fake_mode is None:
                mask[:, -1] = 0
            batch_tensors["attention_mask"] = mask
        job.batches_made += 1
        return batch_tensors

    on_gradient: list[Callable[[nn.Parameter], None]] = []
    if step.per_layer_updates:  # hooks run in order: these come before the optimizers', which free the gradient

        def notice(param: torch.Tensor) -> None:
            for callback in on_gradient:
                callback(param)  # type: ignore[arg-type]

        for param in model.parameters():
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(notice)
    with fake_mode or contextlib.nullcontext():
        optimizers = optimizers_for(plan, model)
    job = Job(
        model=model,
        optimizers=optimizers,
        on_gradient=on_gradient,
        batch=batch,
        autocast=AUTOCAST.get(plan.precision),
        grad_accumulation=step.grad_accumulation,
        keep_gradients=step.keep_gradients,
        keep_outputs=step.keep_outputs,
        keep_outputs_until=step.keep_outputs_until,
        stepped=not step.per_layer_updates,
        refreshes=plan.method.refreshes,
        has_other_parts=model.config.get_text_config() is not model.config,  # type: ignore[union-attr,operator]
        tokens_per_step=step.batch_size * step.seq_len * step.grad_accumulation,
    )
    return job


def config_of(plan: TrainingPlan, root: Path) -> dict[str, Any]:
    """The config.json that the plan's model is built from."""
    return dict(find_model(plan.model, root).config)


def name_of(function: Callable[[], object]) -> str:
    """The function's name as an entry point is typed: package.module:function."""
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"


def _entry_error(message: str, hint: str = "") -> UserError:
    return UserError(Problem(where="--entry", key="", message=message, hint=hint))


def _imported(entry: str, root: Path) -> Callable[[], object]:
    """The function that `package.module:function` names."""
    module_name, _, function_name = entry.partition(":")
    if not module_name or not function_name:
        raise _entry_error(f"{entry!r} is not package.module:function", "for example mytraining.setup:build")
    sys.path.insert(0, str(root.resolve()))  # for good: the function may import more when it is called
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise _entry_error(f"{module_name!r} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise _entry_error(f"{module_name!r} has no function {function_name!r}")
    return cast(Callable[[], object], function)


def job_of_entry(entry: str | Callable[[], object], root: Path, device: str) -> Job:
    """The job of a function, or of `package.module:function`, that returns (model, optimizer or None, batch).

    batch: what the model is called with, as a mapping (keywords), a tuple (positions) or one tensor. The model's answer
    is a loss, has a `.loss`, or is a mapping with "loss" or a tuple with the loss first. UserError where any of this is
    not so.
    """
    function, entry = (_imported(entry, root), entry) if isinstance(entry, str) else (entry, name_of(entry))
    try:
        returned = function()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise _entry_error(f"{entry} failed: {type(error).__name__}: {error}") from error
    if not (isinstance(returned, tuple) and len(returned) == 3 and isinstance(returned[0], nn.Module)):
        raise _entry_error(f"{entry} returned {type(returned).__name__}, not (model, optimizer or None, batch)")
    model, optimizer, batch = returned
    model.to(device)
    if optimizer is None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise _entry_error(f"{entry} returned {type(optimizer).__name__} for the optimizer")
    fixed = _as_batch(batch)
    if fixed is None:
        raise _entry_error(
            f"{entry} returned {type(batch).__name__} for the batch, not a tensor or a mapping or tuple of them"
        )
    tokens = fixed.get("input_ids")

    def again() -> Batch:
        return {name: t.to(device, copy=True) if isinstance(t, torch.Tensor) else t for name, t in fixed.items()}

    return Job(
        model=model,
        optimizers=[optimizer],
        batch=again,
        refreshes=isinstance(optimizer, GradNormLoRPAdamW),
        tokens_per_step=tokens.numel() if isinstance(tokens, torch.Tensor) else 0,
    )


def _as_batch(batch: Any) -> dict[str, Any] | None:
    """The batch as a mapping; a positional argument's key is its position."""
    if isinstance(batch, torch.Tensor):
        return {"0": batch}
    if isinstance(batch, (tuple, list)):
        return {str(i): value for i, value in enumerate(batch)}
    return dict(batch.items()) if isinstance(batch, Mapping) else None


def call(model: nn.Module, batch: Batch) -> Any:
    """Calls the model on a batch; entries whose names are numbers are positional arguments."""
    positional = [batch[name] for name in sorted((n for n in batch if n.isdecimal()), key=int)]
    named = {name: value for name, value in batch.items() if not name.isdecimal()}
    return model(*positional, **named)


def loss_of(output: Any) -> torch.Tensor:
    """The loss in a model's answer: its `.loss`, entry or first item, or the answer itself; else UserError."""
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    if loss is None and isinstance(output, (tuple, list)) and output:
        loss = output[0]
    if loss is None:
        loss = output
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        message = "the model's answer holds no loss, which is one number that requires a gradient"
        raise UserError(Problem(where="--entry", key="", message=message))
    return loss


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """The number of (all, trained) parameters; a packed weight counts as the elements that it stands for."""
    total = trained = 0
    for param in {id(p): p for p in model.parameters()}.values():
        state = getattr(param, "quant_state", None)
        numel = param.numel() if state is None else state.shape.numel()
        total += numel
        trained += numel if param.requires_grad else 0
    return total, trained
