"""Which plans can be run: for tests that draw methods, optimizers and cards at random."""

from typing import Any

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction.estimate import gpu_of
from memplanner.step.assemble import rule_of


def exists(fields: dict[str, Any]) -> bool:
    """Whether a library has the plan's pair of method and optimizer and lets it keep its gradients, and the plan's card
    can run it.
    """
    plan = TrainingPlan.model_validate(fields)
    try:
        rule_of(plan)
        gpu_of(plan)
    except UserError:
        return False
    return True
