"""The local Hugging Face cache, whose config.json comes before what a name may stand for."""

import json
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from memplanner.catalogue import find_model
from memplanner.errors import UserError
from memplanner.hub import cached_config

ID = "someone/Qwen3-8B-Instruct"
CONFIG = {"model_type": "llama", "hidden_size": 64}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has one config.json, laid out as huggingface_hub does."""
    repository = tmp_path / f"models--{ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def test_a_cached_config_comes_before_the_name(cache: Path) -> None:
    assert find_model(ID).config == CONFIG
    assert find_model(ID).name == ID
    assert find_model("someone/Qwen3-4B-Instruct").id == "qwen3-4b"


def test_a_bundled_name_comes_before_the_cache(cache: Path) -> None:
    (cache / f"models--{ID.replace('/', '--')}").rename(cache / "models--Qwen--Qwen3-8B")
    assert find_model("Qwen/Qwen3-8B").id == "qwen3-8b"


def test_continuous_integration_does_not_look_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert cached_config(ID) is None
    assert find_model(ID).id == "qwen3-8b"


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "../../etc/passwd", "a/..", "", "a/\x00", "x" * 500, "a--b/c..d"])
def test_what_is_no_id_is_not_looked_up(cache: Path, name: str) -> None:
    assert cached_config(name) is None


def test_a_broken_file_of_the_cache_is_one_line(cache: Path) -> None:
    next(cache.glob("*/snapshots/*/config.json")).write_text("{")
    with pytest.raises(UserError) as caught:
        find_model(ID)
    assert "\n" not in str(caught.value)
