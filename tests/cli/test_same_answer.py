"""However a plan is asked for, the answer is the same; `python -m tests.cli.answers` asks for more of them."""

from pathlib import Path

import pytest

from tests.cli.answers import differing


def test_every_way_of_asking_gives_one_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert differing(25, 1, tmp_path) == []
