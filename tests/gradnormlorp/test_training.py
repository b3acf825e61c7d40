"""Short trainings end where they ended: every step's loss. That they learn as fast as rivals is an experiment."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.gradnormlorp.training import CURVES, KEPT, STEPS, losses_of

KEPT_LOSSES: dict[str, list[float]] = json.loads(KEPT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CURVES)
def test_every_loss_is_what_it_was(name: str) -> None:
    kept = KEPT_LOSSES[name]
    assert len(kept) == STEPS
    assert kept[-1] < kept[0]
    assert losses_of(CURVES[name]) == pytest.approx(kept, rel=CURVES[name].tolerance, abs=0)


def test_every_recorded_curve_has_its_training() -> None:
    assert KEPT_LOSSES.keys() == CURVES.keys()
