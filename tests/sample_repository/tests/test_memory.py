import pytest


@pytest.mark.memory_budget(plan="pretrain", locked=True)
def test_pretraining_fits() -> None:
    """The plan of memplanner.toml, against its own budget and the lock."""


@pytest.mark.memory_budget(plan="finetune", gpu="rtx3060", budget="95%")
def test_fine_tuning_fits() -> None:
    """The same for another plan, with a budget of the test's own."""
