"""Several plans in one file."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplanner.budgets.check import named_plans
from memplanner.catalogue import model_inside
from memplanner.errors import UserError
from memplanner.files.lines import line_of
from memplanner.files.sandbox import resolve_inside
from memplanner.plan.load import load_plan
from memplanner.plan.overlay import overlay

SHARED = """
model = "llama-60m"
device = "rtx4090"
budget = "4GiB"
method = { kind = "lora", rank = 4 }

[step]
batch_size = 3

[plans.first]

[plans.second]
method = { rank = 16 }
budget = "95%"

[plans.third.method]
kind = "galore"

[plans.third.step]
seq_len = 128
"""


def write(folder: Path, text: str, name: str = "memplanner.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def complaint(folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        named_plans(folder, **options)
    return str(caught.value).replace(f"{folder}/", "")


def test_a_plans_own_settings_win_over_shared_ones(tmp_path: Path) -> None:
    first, second, third = named_plans(write(tmp_path, SHARED))
    assert [plan.name for plan in (first, second, third)] == ["first", "second", "third"]
    assert (first.plan.method.kind, first.plan.method.rank, first.plan.budget) == ("lora", 4, "4GiB")  # type: ignore[attr-defined]
    assert (second.plan.method.kind, second.plan.method.rank, second.plan.budget) == ("lora", 16, "95%")  # type: ignore[attr-defined]
    assert third.plan.method.kind == "galore"
    assert third.plan.method.rank == 128, "another kind's settings do not carry over"  # type: ignore[attr-defined]
    assert (third.plan.step.batch_size, third.plan.step.seq_len) == (3, 128)


def test_flags_are_laid_over_each(tmp_path: Path) -> None:
    plans = named_plans(write(tmp_path, SHARED), flags={"--batch-size": "9", "--gpu": "t4"})
    assert {(p.plan.step.batch_size, p.plan.device.name) for p in plans} == {(9, "t4")}  # type: ignore[union-attr]


def test_plans_may_stand_in_pyproject(tmp_path: Path) -> None:
    text = "[project]\nname = 'x'\n\n[tool.memplanner]\nmodel = 'llama-60m'\n\n"
    text += "[tool.memplanner.plans.a]\nprecision = 'fp32'\n"
    (plan,) = named_plans(write(tmp_path, text, "pyproject.toml"))
    assert plan.plan.precision == "fp32"
    path = tmp_path / "pyproject.toml"
    assert (plan.place(), plan.place("precision"), plan.place("model")) == ((path, 7), (path, 8), (path, 5))


def test_one_plan_is_loaded_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, SHARED)
    loaded = load_plan(root=tmp_path, plan_file="second", flags={"--rank": "32"})
    assert (loaded.name, loaded.plan.method.rank) == ("second", 32)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="holds several plans: first, second, third"):
        load_plan(root=tmp_path)
    loaded = load_plan(root=tmp_path, model="llama-1b")
    assert (loaded.plan.model, loaded.plan.budget) == ("llama-1b", "4GiB"), (
        "what is said of all holds for a typed model"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plans = 3", "memplanner.toml: plans: 3 is not a table of plans by name"),
        ("[plans]", "memplanner.toml: plans: {} is not a table of plans by name"),
        ('[plans."a b"]', "memplanner.toml: plans: 'a b' is not a name for a plan (names are up to 64 letters"),
        ('[plans."::error::x"]', "memplanner.toml: plans: '::error::x' is not a name for a plan"),
        ("plans.a = 4", "memplanner.toml: plans.a: 4 is not a table of settings"),
        ("[plans.a]\nrnk = 3", "memplanner.toml: plans.a: rnk: unknown key"),
        ("[plans.a]\nmodel = 'lama-60m'", None),
        (
            "from = 'x.yml'\n[plans.a]",
            "memplanner.toml: from: is a setting of one plan, not of all (under [plans.NAME])",
        ),
        ("[plans.a]\nbudget = '0%'", "memplanner.toml: plans.a: budget: '0%' is no memory at all"),
        ("[plans.a]\nbudget = '0 GiB'", "memplanner.toml: plans.a: budget: '0 GiB' is no memory at all"),
        ("[plans.a]\nfrom = 3", "memplanner.toml: plans.a: from: 3 is not a name or a list of names"),
        ("[plans.a]\nfrom = '../other.yml'", "plans.a: from: '../other.yml' leads out of the repository"),
        ("[plans.a]\nmodel = '/etc/config.json'", "plans.a: model: '/etc/config.json' leads out of the repository"),
        ("[plans.a]\nmodel = '~/config.json'", "plans.a: model: '~/config.json' leads out of the repository"),
        (
            "[plans.a.method]\nkind = 'lorra'\n[plans.b]\nprecision = 'bf61'",
            "plans.b: precision: 'bf61' is not a known",
        ),
        ("model = 'llama-60m'", "memplanner.toml: holds no named plans (several plans are tables"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str | None) -> None:
    write(tmp_path, text)
    if message is None:
        named_plans(tmp_path)  # that no card or model has the name shows only in a prediction
    else:
        assert message in complaint(tmp_path)


def test_a_folder_without_plans_is_refused(tmp_path: Path) -> None:
    assert "memplanner.toml: no such file, and pyproject.toml has no [tool.memplanner]" in complaint(tmp_path)


def test_all_problems_at_once(tmp_path: Path) -> None:
    write(tmp_path, "[plans.a]\nprecision = 'x'\n[plans.b]\nbudget = 'y'\n[plans.b.step]\nbatch_size = 0")
    assert len(complaint(tmp_path).splitlines()) == 3


def test_links_are_followed_before_a_path_is_judged(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}", encoding="utf-8")
    top = tmp_path / "top"
    (top / ".git").mkdir(parents=True)
    (top / "below").mkdir()
    (top / "link").symlink_to(outside)
    with pytest.raises(UserError, match="leads out of the repository"):
        resolve_inside(top / "below", "../link/config.json", where="x", key="model")
    (top / "model").mkdir()
    (top / "model" / "config.json").symlink_to(outside / "config.json")
    with pytest.raises(UserError, match=r"'model/config\.json' leads out of the repository"):
        model_inside(top, "model", where="x")
    model_inside(top, "llama-7b", where="x")
    assert resolve_inside(top / "below", "../own.json", where="x", key="model") == top / "below" / ".." / "own.json"


def test_the_line_of_a_key_is_found() -> None:
    lines = SHARED.splitlines()
    for keys, line in (
        (("plans", "first"), "[plans.first]"),
        (("plans", "second", "method"), "method = { rank = 16 }"),
        (("plans", "second", "method", "rank"), "method = { rank = 16 }"),
        (("plans", "second", "budget"), 'budget = "95%"'),
        (("plans", "third", "step", "seq_len"), "seq_len = 128"),
        (("step", "batch_size"), "batch_size = 3"),
    ):
        number = line_of(SHARED, keys)
        assert number is not None
        assert lines[number - 1] == line
    assert line_of(SHARED, ("plans", "third", "step", "batch_size")) is None
    assert line_of("plans.a.model = 'x'\n", ("plans", "a")) == 1


@settings(deadline=None, derandomize=True)
@given(text=st.text(alphabet='[]{},plans.a="#\n\\ \x00é', max_size=60))
def test_the_line_of_a_key_is_within_any_text(text: str) -> None:
    number = line_of(text, ("plans", "a"))
    assert number is None or 1 <= number <= len(text.splitlines())


def test_a_settings_place_is_where_its_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "axolotl.yml").write_text(
        "base_model: llama-60m\nadapter: lora\nlora_r: 8\nsequence_len: 64\nmicro_batch_size: 2\n", encoding="utf-8"
    )
    text = "budget = '9GiB'\nstep = { batch_size = 1 }\n[plans.a]\nfrom = 'axolotl.yml'\n[plans.a.step]\nseq_len = 32\n"
    (plan,) = named_plans(write(tmp_path, text))
    own, config = tmp_path / "memplanner.toml", tmp_path / "axolotl.yml"
    assert plan.place() == (own, 3)
    assert plan.place("step.seq_len") == (own, 6), "its own settings win"
    assert plan.place("method.rank") == (config, 3)
    assert plan.place("step.batch_size") == (config, 5), "a config wins over what is said of all"
    assert plan.place("budget") == (own, 1)
    assert plan.place("precision") == (own, 3), "a default is no one's: where the plan begins"
    assert plan.place("step.attention") == (own, 5)
    config.write_text("# lora_r: 4\n" + config.read_text(encoding="utf-8") + "bf16: false\n", encoding="utf-8")
    (plan,) = named_plans(tmp_path)
    assert plan.place("method.rank") == (config, 4), "no comment sets anything"
    assert plan.place("precision") == (config, 7), "what is switched off decides, too"


def test_laying_a_table_over_another_changes_neither() -> None:
    base, over = {"a": {"b": 1}, "method": {"kind": "lora", "rank": 8}}, {"a": {"c": 2}, "method": {"kind": "full"}}
    assert overlay(base, over) == {"a": {"b": 1, "c": 2}, "method": {"kind": "full"}}
    assert (base["a"], over["a"]) == ({"b": 1}, {"c": 2})
