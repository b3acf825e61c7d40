"""AdamW whose moments live in a projected space for the parameters that ask for it (arXiv 2412.19616, 2403.03507).

Every `refresh_interval` steps the leading singular vectors of a factor's gradient are recomputed; the moments and the
update live in the space that they span.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from memplanner.gradnormlorp import moments
from memplanner.gradnormlorp.moments import StateFormat
from memplanner.gradnormlorp.projector import Projector, Sides, subspace


class GradNormLoRPAdamW(torch.optim.Optimizer):
    """AdamW whose moments live in a projected space for the matrices of groups that have a projection rank.

    Works with any parameters, not only GradNormLoRP's; every argument can differ by parameter group.

    lr: learning rate. betas, eps: Adam's. weight_decay: decoupled, param -= lr·weight_decay·param before the update.
    projection_rank: r; None (the default) is plain AdamW. A side of a matrix that is no longer than r is not projected.
    projection: "two-sided" (moments r×r) or "one-sided" (the shorter side only, GaLore's "std").
    projection_scale: α, which multiplies a projected update; a parameter with no projected side takes plain steps.
    refresh_interval: steps between two decompositions; the first step makes the first.
    restart_moments: whether moments start from zero with each new subspace; public code keeps them.
    state: format of the moments: "param" (the parameter's type), "fp32", "bf16" or "8-bit" (bitsandbytes, on CPU and
    CUDA; tensors under 4096 elements stay float32).
    ValueError for values outside their range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        projection_rank: int | None = None,
        projection: Sides = "two-sided",
        projection_scale: float = 0.25,
        refresh_interval: int = 200,
        restart_moments: bool = False,
        state: StateFormat = "param",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "projection_rank": projection_rank,
            "projection": projection,
            "projection_scale": projection_scale,
            "refresh_interval": refresh_interval,
            "restart_moments": restart_moments,
            "state": state,
        }
        self._code_books: dict[torch.device, tuple[Tensor, Tensor]] = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch.optim.Optimizer does; ValueError for values outside their range."""
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, one after another."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)
        return loss

    def update_in_backward(self) -> list[RemovableHandle]:
        """Update each parameter within the backward pass from now on, as soon as its gradient is complete, and free the
        gradient. Every backward pass is then a step, so gradients can be neither accumulated nor clipped. `step` has
        nothing left to do, but learning-rate schedulers still expect it to be called. Removing the handles ends this.
        """
        index = {id(p): i for i, group in enumerate(self.param_groups) for p in group["params"]}

        def hook(param: Tensor) -> None:
            with torch.no_grad():
                self._update(param, self.param_groups[index[id(param)]])
            param.grad = None

        return [p.register_post_accumulate_grad_hook(hook) for group in self.param_groups for p in group["params"]]

    def restart(self, params: Iterable[Tensor]) -> None:
        """Drop the state of these parameters: after a fold its moments and subspaces describe factors that are gone."""
        for param in params:
            self.state.pop(param, None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch.optim.Optimizer does, but keep the type of every tensor: torch would cast moments and
        projectors to the parameter's type.
        """
        super().load_state_dict({**state_dict, "state": {}})
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for key, param in zip(saved, params, strict=True):
            if key in state_dict["state"]:
                self.state[param] = {
                    name: value.to(param.device, copy=True) if isinstance(value, Tensor) else value
                    for name, value in state_dict["state"][key].items()
                }

    def _update(self, param: Tensor, group: dict[str, Any]) -> None:
        assert param.grad is not None
        if param.grad.is_sparse:
            raise RuntimeError("GradNormLoRPAdamW does not take sparse gradients")
        state = self.state[param]
        grad = param.grad
        if group["weight_decay"]:
            param.mul_(1 - group["lr"] * group["weight_decay"])
        projector = self._projector(grad, state, group)
        if projector is not None:
            grad = projector.project(grad)
        if "exp_avg" not in state:
            moments.initialise(state, grad, group["state"])
        state["step"] = state.get("step", 0) + 1
        maps = self._maps(grad.device) if "exp_avg_absmax" in state else ()
        if projector is None:
            moments.adam_step(param, grad, state, group, group["lr"], maps)
            return
        update = torch.zeros_like(grad)
        moments.adam_step(update, grad, state, group, 1.0, maps)
        projector.add_back(param, update, group["lr"] * group["projection_scale"])

    def _projector(self, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Projector | None:
        """The parameter's projector, recomputed when the interval is over; None where the parameter is not projected.

        state["taken"] counts the steps that the present subspace has served.
        """
        rank = group["projection_rank"]
        if rank is None or grad.dim() != 2:
            return None
        steps_since_refresh = state.get("taken")
        if steps_since_refresh is None or steps_since_refresh >= group["refresh_interval"]:
            projector = subspace(grad, rank, group["projection"])
            state["taken"] = 0
            if projector is not None and projector.left is not None:
                state["left"] = projector.left
            if projector is not None and projector.right is not None:
                state["right"] = projector.right
            if group["restart_moments"]:
                moments.clear(state)
        state["taken"] += 1
        if "left" not in state and "right" not in state:
            return None
        return Projector(state.get("left"), state.get("right"))

    def _maps(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._code_books:
            self._code_books[device] = moments.code_books(device)
        return self._code_books[device]


def _check(group: dict[str, Any]) -> None:
    """ValueError for the first value of a parameter group that is outside its range."""
    beta1, beta2 = group["betas"]
    rank = group["projection_rank"]
    violations = {
        "lr": group["lr"] < 0,
        "betas": not (0 <= beta1 < 1 and 0 <= beta2 < 1),
        "eps": group["eps"] < 0,
        "weight_decay": group["weight_decay"] < 0,
        "projection_rank": rank is not None and rank < 1,
        "projection": group["projection"] not in ("two-sided", "one-sided"),
        "refresh_interval": group["refresh_interval"] < 1,
        "state": group["state"] not in ("param", "fp32", "bf16", "8-bit"),
    }
    for name, is_wrong in violations.items():
        if is_wrong:
            raise ValueError(f"{name} {group[name]!r} is not allowed")
