"""The harness's steps train: on real text, with Adam at 1e-4, the loss goes down."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from memplanner.harness.record import measure
from tests.harness.test_record import SUITES, tiny


def test_training_on_the_text_lowers_the_loss() -> None:
    record = measure(tiny(method="full"), "cpu", name="r", root=SUITES, warmup=20, timed=10)
    assert len(record.losses) == 31
    losses = [loss for loss in record.losses if loss is not None]
    assert sum(losses[-5:]) < sum(losses[:5])
