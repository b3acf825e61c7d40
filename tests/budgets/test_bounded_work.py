"""What a small file can make the program do is counted, and bounded, before it is done."""

import difflib
from pathlib import Path
from typing import Any

import pytest

from memplanner.budgets.check import named_plans
from memplanner.errors import UserError
from memplanner.files import yaml_text
from memplanner.files.yaml_text import parse_yaml
from memplanner.frameworks import config_file
from memplanner.plan import named
from memplanner.plan.merge import merge
from memplanner.prediction import predict
from memplanner.report.layout import wrap
from memplanner.solve.largest import ONE_BY_ONE, largest
from memplanner.suite import definition
from memplanner.suite.definition import load_suite


def refused(error: pytest.ExceptionInfo[UserError]) -> str:
    return str(error.value.problems[0])


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """The calls of a function from now on."""
    calls: list[Any] = []
    asked = getattr(owner, name)

    def call(*args: Any, **keywords: Any) -> Any:
        calls.append(args)
        return asked(*args, **keywords)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_a_suites_plans_are_counted_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch, definition, "overlay")
    grid = "".join(f'"step.x{i}" = [1, 2, 3, 4, 5, 6, 7, 8]\n' for i in range(1000))
    (tmp_path / "suite.toml").write_text(f'[[group]]\nname = "a"\n[group.grid]\n{grid}', encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_suite("suite.toml", tmp_path)
    assert "is more than 10,000 plans" in refused(error)
    assert not made


def test_a_suite_ends_at_a_hundred_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch, definition, "merge")
    values = ", ".join(map(str, range(9000)))
    text = f'plan = {{nope = 1}}\n[[group]]\nname = "a"\n[group.grid]\n"step.seq_len" = [{values}]\n'
    (tmp_path / "suite.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        load_suite("suite.toml", tmp_path)
    assert len(made) <= 100


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('""', "grid '' is not the name of a setting"),
        ('"step._x"', "grid 'step._x' is not the name of a setting"),
        ('"..."', "grid '...' is not the name of a setting"),
        ('"step.batch_size.x"', "grid 'step.batch_size.x' is in batch_size, which is no table"),
    ],
)
def test_a_suites_keys_are_names_of_settings(tmp_path: Path, key: str, message: str) -> None:
    text = f'[[group]]\nname = "a"\nplan = {{step = {{batch_size = 1}}}}\n[group.grid]\n{key} = [1, 2]\n'
    (tmp_path / "suite.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_suite("suite.toml", tmp_path)
    assert message in refused(error)


def test_what_all_plans_take_over_is_counted_before_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = counted(monkeypatch, named, "overlay")
    shared = "".join(f"k{i} = 1\n" for i in range(5000))
    text = shared + "".join(f"[plans.p{i}]\n" for i in range(200))
    (tmp_path / "memplanner.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        named_plans(tmp_path)
    assert "200 plans with what the file sets for all come to 1,000,200 settings" in refused(error)
    assert not copied


def test_spellings_are_compared_for_fifty_unknown_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = counted(monkeypatch, difflib, "get_close_matches")
    with pytest.raises(UserError) as error:
        merge({f"k{i}": 1 for i in range(5000)}, {}, where="plan")
    assert len(error.value.problems) == 5000
    assert len(compared) <= 50


def test_a_config_is_parsed_once_for_all_plans_that_start_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = counted(monkeypatch, config_file, "parse_yaml")
    (tmp_path / "a.yml").write_text("base_model: llama-60m\nadapter: lora\nlora_r: 8\n", encoding="utf-8")
    models = ("llama-60m", "llama-130m", "gpt2")
    text = "".join(f'[plans.p{i}]\nfrom = "a.yml"\nmodel = "{model}"\n' for i, model in enumerate(models))
    (tmp_path / "memplanner.toml").write_text(text, encoding="utf-8")
    assert len(named_plans(tmp_path)) == 3
    assert len(parsed) == 1


def test_brackets_in_yaml_are_counted_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_yaml("a: " + "[" * 60 + "]" * 60, "file")
    read = counted(monkeypatch, yaml_text, "_error")
    for text in ("a: " + "[" * 100_000, "a: " + "{" * 100_000, "[" * 65 + "]" * 65):
        with pytest.raises(UserError) as error:
            parse_yaml(text, "file")
        assert "more than 64 brackets inside each other" in refused(error)
    assert len(read) == 3


@pytest.mark.parametrize("text", ["!!int ''", "!!float ''", "!!bool ''", "!!int x", "!!timestamp x", "!!omap [a]"])
def test_odd_tags_of_yaml_are_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_yaml(f"base_model: {text}", "file.yml")
    assert refused(error).startswith("file.yml: not ")


def test_a_long_search_asks_for_few_predictions() -> None:
    plan = merge({"model": "smollm2-135m", "device": "80GiB", "method": "lora"}, {}, where="plan")
    asked = 0

    def predicted(changed: Any) -> Any:
        nonlocal asked
        asked += 1
        return predict(changed)

    result = largest(plan, "seq-len", predicted)
    assert result.value > 0
    assert asked < 3 * ONE_BY_ONE


def test_a_long_word_is_cut_in_one_pass() -> None:
    lines = wrap("字" * 200_000, 80)
    assert "".join(lines) == "字" * 200_000
    assert {len(line) for line in lines} == {40}
