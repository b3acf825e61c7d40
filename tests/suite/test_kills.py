"""Suites that are killed, stopped, or out of room; tests.suite.kills does more of it, for longer."""

import random
import sys
from pathlib import Path

import pytest

from tests.suite.kills import campaign

pytest.importorskip("transformers")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_nothing_is_lost_and_nobody_is_left(tmp_path: Path) -> None:
    kinds = ("kill", "term", "hup", "stop", "full", "limit")
    counts = campaign(tmp_path, len(kinds), seed=random.randrange(2**32), kinds=kinds)
    assert counts.complete
