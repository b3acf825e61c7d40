"""Which plans have a library: for tests that draw methods and optimizers at random."""

from typing import Any

from memplanner.errors import UnsupportedError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.step.assemble import rule_of


def exists(fields: dict[str, Any]) -> bool:
    """Whether a library has the plan's pair of method and optimizer, and lets it keep its gradients."""
    try:
        rule_of(TrainingPlan.model_validate(fields))
    except UnsupportedError:
        return False
    return True
