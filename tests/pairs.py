"""Which plans have a library: for tests that draw methods and optimizers at random."""

from typing import Any

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan


def exists(fields: dict[str, Any]) -> bool:
    """Whether a library has the plan's pair of method and optimizer, and lets it keep its gradients."""
    plan = TrainingPlan.model_validate(fields)
    try:
        rule = plan.method.rule(plan.optimizer)
    except UserError:
        return False
    return not (rule.replaces_gradients and plan.step.keep_gradients)
