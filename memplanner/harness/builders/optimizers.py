"""The optimizers of a plan: built from the rule that prediction itself reads, so that both know the same pairs."""

import warnings
from collections.abc import Iterable
from functools import singledispatch
from typing import Any

import torch
from torch import nn

from memplanner.components.methods.base import Method
from memplanner.components.methods.galore import Galore, GaloreAdamW, GaloreAdamW8bit
from memplanner.components.methods.gradnormlorp import GradNormLorp
from memplanner.components.methods.gradnormlorp_authors_update import WeightNormAdamW
from memplanner.components.methods.gradnormlorp_update import GradNormLorpAdamW
from memplanner.components.optimizers.adafactor import Adafactor
from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.components.optimizers.sgd import Sgd
from memplanner.gradnormlorp import GradNormLoRPAdamW
from memplanner.gradnormlorp import parameter_groups as gradnormlorp_groups
from memplanner.harness.builders.models import block_linears
from memplanner.harness.errors import NotBuildableError
from memplanner.harness.notices import update_notice
from memplanner.plan.training_plan import TrainingPlan
from memplanner.step.assemble import rule_of

LEARNING_RATE = 1e-4

Groups = list[dict[str, Any]]
"""Parameter groups, as torch.optim takes them."""


def optimizers_for(plan: TrainingPlan, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers of a step: calling step() of each one updates the model. With per-layer updates there is one per
    parameter, whose hook steps and frees the gradient within backward, as soon as it is complete.

    UnsupportedError where no library has the plan's pair of method and optimizer; NotBuildableError where this harness
    has no builder for it.
    """
    rule = rule_of(plan)
    groups = parameter_groups(plan.method, model)
    if not plan.step.per_layer_updates:
        return [_with_whole_embeddings(rule, optimizer_of(rule, groups), model)]
    if isinstance(rule, GradNormLorpAdamW):
        own = optimizer_of(rule, groups)
        assert isinstance(own, GradNormLoRPAdamW)
        own.update_in_backward()
        return [own]
    return [_updating_in_backward(rule, group, param, model) for group in groups for param in group["params"]]


def _with_whole_embeddings(rule: object, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """bitsandbytes' optimizer, told to keep embeddings' moments in fp32 where the plan says so, as transformers'
    Trainer tells it. The manager that it asks is its own here: bitsandbytes' is the process's, and keeps modules.
    """
    if not (isinstance(rule, AdamW8bit) and rule.whole_embeddings):
        return optimizer
    from bitsandbytes.optim.optimizer import GlobalOptimManager

    manager = GlobalOptimManager.__new__(GlobalOptimManager)
    manager.initialize()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    optimizer.mng = manager  # type: ignore[attr-defined]
    return optimizer


def _updating_in_backward(
    rule: Any, group: dict[str, Any], param: nn.Parameter, model: nn.Module
) -> torch.optim.Optimizer:
    """An optimizer of one parameter, which steps as soon as the gradient is complete."""
    optimizer = _with_whole_embeddings(rule, optimizer_of(rule, [{**group, "params": [param]}]), model)

    def update(param: torch.Tensor) -> None:
        with update_notice:
            optimizer.step()
            optimizer.zero_grad()

    param.register_post_accumulate_grad_hook(update)
    return optimizer


@singledispatch
def parameter_groups(method: Method, model: nn.Module) -> Groups:
    """The parameters in the groups that the method's optimizer wants: by default one group of all that learn."""
    return [{"params": [p for p in model.parameters() if p.requires_grad]}]


@parameter_groups.register
def _galore_groups(method: Galore, model: nn.Module) -> Groups:
    targets = [(module.weight, method.rank_at(name)) for name, module in block_linears(model) if method.is_target(name)]
    return _with_projection(method, model, targets)


@parameter_groups.register
def _gradnormlorp_groups(method: GradNormLorp, model: nn.Module) -> Groups:
    if method.implementation == "reparameterised":
        return list(gradnormlorp_groups(model, method))
    factors = [
        (param, method.projection_rank)
        for name, param in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    ]
    return _with_projection(method, model, factors)


def _with_projection(method: Galore | GradNormLorp, model: nn.Module, targets: Iterable[tuple[Any, int]]) -> Groups:
    """galore_torch's parameter groups as its README makes them: first what is not projected, then one per rank."""
    by_rank: dict[int, list[Any]] = {}
    for weight, rank in targets:
        by_rank.setdefault(rank, []).append(weight)
    projected = {id(weight) for weights in by_rank.values() for weight in weights}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in projected]
    settings = {"update_proj_gap": method.refresh_interval, "scale": 0.25, "proj_type": "std"}
    groups = [{"params": weights, "rank": rank, **settings} for rank, weights in by_rank.items()]
    return [{"params": rest}, *groups] if rest else groups


@singledispatch
def optimizer_of(rule: object, groups: Groups) -> torch.optim.Optimizer:
    """The library's optimizer that a rule is written after."""
    raise NotBuildableError(f"{type(rule).__name__}: this harness has no builder for such an optimizer")


@optimizer_of.register
def _adamw(rule: AdamW, groups: Groups) -> torch.optim.Optimizer:
    implementation = rule.implementation
    if implementation == "bitsandbytes":
        import bitsandbytes

        return bitsandbytes.optim.AdamW32bit(groups, lr=LEARNING_RATE, is_paged=rule.is_paged)  # type: ignore[no-any-return]
    if rule.state_dtype != "param":
        raise NotBuildableError(f"torch.optim.AdamW has no option for {rule.state_dtype} moments")
    return torch.optim.AdamW(
        groups, lr=LEARNING_RATE, foreach=implementation == "foreach", fused=implementation == "fused"
    )


@optimizer_of.register
def _adamw8bit(rule: AdamW8bit, groups: Groups) -> torch.optim.Optimizer:
    if rule.format != "bitsandbytes":
        raise NotBuildableError(f"optimizer {rule.describe()}: this harness has no builder for torchao's optimizers")
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(groups, lr=LEARNING_RATE, is_paged=rule.is_paged)  # type: ignore[no-any-return]


@optimizer_of.register
def _sgd(rule: Sgd, groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=rule.momentum, foreach=True)


@optimizer_of.register
def _adafactor(rule: Adafactor, groups: Groups) -> torch.optim.Optimizer:
    from transformers import Adafactor as TransformersAdafactor

    return TransformersAdafactor(  # type: ignore[no-any-return]
        groups,
        lr=LEARNING_RATE,
        relative_step=False,
        scale_parameter=False,
        beta1=0.9 if rule.beta1 else None,
    )


def _galore_torch() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import galore_torch
    return galore_torch


@optimizer_of.register
def _galore_adamw(rule: GaloreAdamW, groups: Groups) -> torch.optim.Optimizer:
    return _galore_torch().GaLoreAdamW(groups, lr=LEARNING_RATE, no_deprecation_warning=True)  # type: ignore[no-any-return]


@optimizer_of.register
def _galore_adamw8bit(rule: GaloreAdamW8bit, groups: Groups) -> torch.optim.Optimizer:
    moments = rule.moments
    paged = isinstance(moments, AdamW8bit) and moments.is_paged
    return _galore_torch().GaLoreAdamW8bit(groups, lr=LEARNING_RATE, is_paged=paged)  # type: ignore[no-any-return]


@optimizer_of.register
def _gradnormlorp(rule: GradNormLorpAdamW, groups: Groups) -> torch.optim.Optimizer:
    state = rule.moments.state_dtype if isinstance(rule.moments, AdamW) else "8-bit"
    return GradNormLoRPAdamW(groups, lr=LEARNING_RATE, state=state)


@optimizer_of.register
def _weight_norm(rule: WeightNormAdamW, groups: Groups) -> torch.optim.Optimizer:
    raise NotBuildableError("optimizers over bare weights: the authors' code cannot be installed as a package")
