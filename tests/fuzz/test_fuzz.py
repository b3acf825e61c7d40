"""A short campaign over every target; `make fuzz N=1000000` is a long one."""

from collections.abc import Iterator

import pytest

from tests.fuzz.campaign import Tally, campaign, laid_out, one
from tests.fuzz.targets import TARGETS, Target, judge_document

INPUTS = 3000


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with laid_out():
        yield


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_is_read_is_answered_or_refused(target: Target) -> None:
    share = INPUTS * target.share // sum(each.share for each in TARGETS)
    ((_, tally, _),) = campaign(share, seed=1, targets=(target,))
    assert tally.inputs == share
    assert not tally.findings, "\n".join(details for _, details in tally.first.values()) or tally.findings


@pytest.mark.usefixtures("folder")
def test_a_finding_is_noted() -> None:
    def wrong(rng: object) -> None:
        judge_document("json", '{"bytes": NaN}')

    tally = Tally()
    one(Target("wrong", wrong), 1, 0, tally)
    (what,) = tally.findings
    assert "NaN is no JSON" in what
