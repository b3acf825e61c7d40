"""Every bundled profile is valid and findable; a user's own config.json is read safely."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplanner import catalogue
from memplanner.catalogue import all_gpus, all_models, bundled_model, files, find_gpu, find_model, key
from memplanner.errors import UserError
from memplanner.files.parse import MAX_FILE_BYTES
from memplanner.files.sandbox import profiles_dir
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict


def test_every_card_is_valid_and_every_spelling_leads_to_it() -> None:
    cards = all_gpus()
    assert len(cards) >= 70
    spellings: dict[str, str] = {}
    for card in cards:
        for spelling in {key(s) for s in (card.id, card.name, *card.aliases)}:
            assert spellings.setdefault(spelling, card.id) == card.id, spelling
            assert find_gpu(spelling) == card
        assert 0 < card.total.bytes <= card.nvidia_smi.bytes, card.id
        for figure in (card.total, card.nvidia_smi, card.context, card.cublas_workspace):
            assert figure.source


def test_every_model_is_valid_and_every_spelling_leads_to_it() -> None:
    models = all_models()
    assert len(models) >= 160
    spellings: dict[str, str] = {}
    for model in models:
        for spelling in {key(s) for s in (model.id, model.name, *model.aliases)}:
            assert spellings.setdefault(spelling, model.id) == model.id, spelling
            assert find_model(spelling) == model
        assert model.parameters
        assert "model_type" in model.config
        assert "memplanner" not in model.config


@pytest.mark.parametrize("name", ["rtx4090", "RTX 4090", "4090", "NVIDIA GeForce RTX 4090", "rtx-4090", "RTX_4090"])
def test_spellings(name: str) -> None:
    assert find_gpu(name).id == "rtx4090"


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("GeForce RTX 4080 Laptop GPU", "rtx4080-laptop"),
        ("nvidia-geforce-rtx-5070", "rtx5070"),
        ("RTX 6000 Ada Generation", "rtx6000ada"),
        ("RTX PRO 4500 Blackwell", "rtxpro4500"),
        ("NVIDIA RTX A4000", "rtxa4000"),
        ("Radeon RX 7900 XTX", "rx7900xtx"),
        ("A100 PCIe", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
    ],
)
def test_a_card_with_its_makers_words_or_without(name: str, card: str) -> None:
    assert find_gpu(name).id == card


def test_makers_words_do_not_choose_between_cards_of_one_name() -> None:
    for name in ("GeForce RTX 5060 Ti", "nvidia", "GeForce GPU"):
        with pytest.raises(UserError, match="no card is called"):
            find_gpu(name)


@pytest.mark.parametrize(
    ("find", "alias"), [(find_gpu, "geforce rtx 4090"), (find_model, "meta-llama/CodeLlama-7b-hf")]
)
def test_an_alias_is_looked_up_on_disk_once(
    find: Callable[[str], object], alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find(alias)
    monkeypatch.setattr(catalogue, "read_text", lambda path: pytest.fail(f"{path} is read again"))
    assert find(alias) is first


@pytest.mark.parametrize(
    ("find", "name", "hint"),
    [
        (find_gpu, "RTX 4091", "'rtx4090'"),
        (find_gpu, "RTX 5060 Ti", "'rtx5060ti-16gb' or 'rtx5060ti-8gb' or "),
        (find_gpu, "quadro", "'quadrortx6000' or 'quadrortx8000'"),
        (find_gpu, "rtx6000", "'rtx6000ada' or "),
        (find_gpu, "mi300", "'mi300x' or "),
        (find_model, "lama-7b", "'codellama-7b' or 'llama-7b' or "),
        (find_model, "llama-3.1-8", "'llama-3.1-8b' or "),
    ],
)
def test_unknown_names_offer_the_nearest(find: Callable[[str], object], name: str, hint: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"did you mean {hint}")):
        find(name)


def test_an_unknown_card_may_be_given_by_its_size() -> None:
    for name in ("", "a", "jetson", "rtx", "rtx3080ti-laptop"):
        with pytest.raises(UserError, match="size such as 24GiB works, too"):
            find_gpu(name)


def test_a_card_comes_before_its_variants() -> None:
    assert [card.id for card in all_gpus()] == sorted(card.id for card in all_gpus())


def test_no_other_file_lies_in_profiles() -> None:
    folders = {"gpus": ".toml", "models": ".json", "plans": ".toml", "published": ".toml"}
    for folder, suffix in folders.items():
        there = sorted((profiles_dir() / folder).iterdir())
        measured = ["README.md", "measurements.json"] if folder == "published" else []
        assert [path for path in there if path.name not in measured] == sorted(files(folder, suffix))


CONFIG = {"model_type": "llama", "hidden_size": 64}


def test_own_config(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("my-model", "./my-model", "my-model/config.json", str(folder)):
        model = find_model(name, tmp_path)
        assert (model.config, model.name, model.parameters) == (CONFIG, "my-model", None)


def test_a_bundled_name_wins_over_a_folder_unless_it_is_spelled_as_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert find_model("gpt2", tmp_path).parameters
    assert find_model("./gpt2", tmp_path).config == CONFIG


def test_a_bundled_model_is_never_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert bundled_model("./config.json") is None
    assert bundled_model("NousResearch/Llama-2-7b-hf") == find_model("llama-2-7b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama", "hidd', "config.json: not valid JSON at line 1, column 25: .*cut short|at line 1"),
        ("", "cut short"),
        ("[1]", "holds a JSON array, not an object"),
        ('"x"', "holds a JSON string"),
        ('{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}', "has the key 'c' twice in one object"),
        ("{" + " " * MAX_FILE_BYTES, "larger than 1 MiB"),
        ("\x00", "not valid JSON at line 1, column 1"),
    ],
)
def test_broken_configs(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        find_model("./config.json", tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_and_odd_paths(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("./nothing.json", "./empty", "/dev/zero", "~nobody-here/x", ".", "", "\x00", "x" * 5000):
        with pytest.raises(UserError):
            find_model(name, tmp_path)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_model_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    _read(tmp_path_factory, data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
)
def test_any_json_is_a_model_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    _read(tmp_path_factory, json.dumps(value).encode())


def _read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_bytes(data)
    try:
        find_model(str(path))
    except UserError as error:
        assert "\n" not in str(error)


def test_a_problem_names_the_file_that_it_is_in(tmp_path: Path) -> None:
    text = json.dumps({"model_type": "llama", "quantization_config": {"quant_method": "awq"}})
    for place, said in (("Llama-AWQ/config.json", "Llama-AWQ: "), ("mine/awq.json", "awq.json: ")):
        path = tmp_path / place
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=f"^{said}quantization_config"):
            predict(TrainingPlan(model=str(path)))
