"""Whether a step fits its device: the limit that a plan sets, and the verdict with a margin of error."""

from memplanner.catalogue import GpuProfile
from memplanner.plan.training_plan import SizeDevice, TrainingPlan
from memplanner.timeline import Verdict
from memplanner.units import parse_share, parse_size


def device_total(plan: TrainingPlan, gpu: GpuProfile | None) -> int:
    """Bytes that the plan's device gives a process. gpu: the card, None for a device given by its size."""
    device = plan.device
    if isinstance(device, SizeDevice):
        return parse_size(device.memory)
    assert gpu is not None
    return gpu.total.bytes


def limit_of(plan: TrainingPlan, total: int) -> int:
    """The plan's limit on a device of `total` bytes: all of it less the headroom, and no more than the budget."""
    limit = total - _bytes_of(plan.headroom, total)
    return limit if plan.budget is None else min(limit, _bytes_of(plan.budget, total))


def verdict_of(spare_bytes: int, error_bytes: int) -> Verdict:
    """The verdict. spare_bytes: what is left under the limit, negative where it is exceeded. error_bytes: how far the
    estimate may be off.
    """
    if spare_bytes < 0:
        return "does-not-fit"
    return "tight" if spare_bytes < error_bytes else "fits"


def _bytes_of(amount: str, total: int) -> int:
    return round(parse_share(amount) * total) if amount.strip().endswith("%") else parse_size(amount)
