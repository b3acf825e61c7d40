"""qlora as a method, wherever one is read: LoRA over a base in 4 bits."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from memplanner.cli.main import main
from memplanner.components.methods.lora import Lora
from memplanner.errors import UserError
from memplanner.plan.flags import has_use
from memplanner.plan.load import load_plan
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.suite.definition import load_suite
from memplanner.tui.state import start


@pytest.mark.parametrize(("typed", "quantization"), [({}, "nf4-double"), ({"--quantization": "nf4"}, "nf4")])
def test_qlora_is_lora_over_four_bits(typed: dict[str, str], quantization: str) -> None:
    base = {"model": "gpt2", "quantization": "int8"}
    plan = merge(base, {"--method": "qlora", "--rank": "4", **typed}, where="plan")
    assert plan == merge(base, {"--method": "lora", "--rank": "4", "--quantization": quantization}, where="plan")
    assert plan.quantization == quantization


@pytest.mark.parametrize("quantization", ["none", "int8", "nf5"])
def test_qlora_over_anything_else_is_refused(quantization: str) -> None:
    with pytest.raises(UserError, match=f"qlora is lora over a base in 4 bits, and --quantization is '{quantization}'"):
        merge({"model": "gpt2"}, {"--method": "qlora", "--quantization": quantization}, where="plan")


def test_qlora_has_what_lora_has() -> None:
    assert has_use("--rank", "qlora")
    assert not has_use("--projection-rank", "qlora")


LORA: dict[str, Any] = {"model": "gpt2", "method": {"kind": "lora", "rank": 4}, "quantization": "nf4-double"}


@pytest.mark.parametrize(
    ("table", "plan"),
    [
        ({"model": "gpt2", "method": {"kind": "qlora", "rank": 4}}, LORA),
        ({"model": "gpt2", "method": "qlora"}, LORA | {"method": "lora"}),
        ({"model": "gpt2", "method": "qlora", "quantization": "nf4"}, LORA | {"method": "lora", "quantization": "nf4"}),
    ],
)
def test_a_tables_method_may_be_qlora(table: dict[str, Any], plan: dict[str, Any]) -> None:
    before = repr(table)
    assert TrainingPlan.model_validate(table) == TrainingPlan.model_validate(plan)
    assert merge(table, {}, where="plan") == merge(plan, {}, where="plan")
    assert TrainingPlan.model_validate_json(json.dumps(table)) == TrainingPlan.model_validate(plan)
    assert repr(table) == before


@pytest.mark.parametrize("method", ["qlora", {"kind": "qlora", "rank": 4}])
@pytest.mark.parametrize("quantization", ["none", "int8", 4, {}, None])
def test_a_table_that_is_at_odds_with_itself_is_refused(method: object, quantization: object) -> None:
    table = {"model": "gpt2", "method": method, "quantization": quantization}
    with pytest.raises(UserError) as error:
        merge(table, {}, where="file")
    (problem,) = error.value.problems
    assert problem.where == "file"
    assert "method 'qlora' is lora over a base in 4 bits, and quantization is " in problem.message
    with pytest.raises(ValidationError, match="qlora"):
        TrainingPlan.model_validate(table)


def test_flags_lie_over_a_table_with_qlora() -> None:
    for method in ("qlora", {"kind": "qlora"}):
        assert merge({"model": "gpt2", "method": method}, {"--rank": "4"}, where="") == TrainingPlan.model_validate(
            LORA
        )
    int8 = {"model": "gpt2", "method": {"kind": "qlora"}, "quantization": "int8"}
    settled = merge(int8, {"--quantization": "nf4", "--rank": "4"}, where="plan")
    assert settled == TrainingPlan.model_validate(LORA | {"quantization": "nf4"})
    assert merge({"method": "qlora"}, {"--quantization": "int8"}, where="plan").quantization == "int8"
    for table in (int8, {"method": "qlora"}):
        with pytest.raises(UserError, match="has no projection rank"):
            merge(table, {"--projection-rank": "4"}, where="plan")
    with pytest.raises(UserError, match="needs a frozen base"):
        merge({"method": "qlora"}, {"--method": "full"}, where="plan")


def test_named_plans_have_it_as_their_own_or_in_common(tmp_path: Path) -> None:
    write = (tmp_path / "memplanner.toml").write_text
    write(
        'model = "gpt2"\nquantization = "int8"\n[method]\nkind = "lora"\nrank = 4\n[plans.q.method]\nkind = "qlora"\n'
    )
    assert load_plan(root=tmp_path, plan_file="q").plan == TrainingPlan.model_validate(LORA)
    write('model = "gpt2"\n[method]\nkind = "qlora"\nrank = 4\n[plans.a]\n[plans.b]\nquantization = "int8"\n')
    assert load_plan(root=tmp_path, plan_file="a").plan == TrainingPlan.model_validate(LORA)
    assert load_plan(root=tmp_path, plan_file="b").plan == TrainingPlan.model_validate(LORA | {"quantization": "int8"})
    write('model = "gpt2"\n[plans.c]\nmethod = "qlora"\nquantization = "int8"\n')
    with pytest.raises(UserError, match=r"plans\.c: method 'qlora' is lora over a base in 4 bits"):
        load_plan(root=tmp_path, plan_file="c")


@pytest.mark.parametrize(
    "grid", ['method = ["lora", "qlora"]', '"method.kind" = ["lora", "qlora"]', 'method = ["lora", {kind = "qlora"}]']
)
def test_suites_vary_it(grid: str, tmp_path: Path) -> None:
    text = f'plan = {{ model = "gpt2" }}\n[[group]]\nname = "g"\ngrid = {{ {grid} }}\n'
    (tmp_path / "suite.toml").write_text(text)
    cases = load_suite("suite.toml", tmp_path)
    assert [(case.id, case.plan.method.kind, case.plan.quantization) for case in cases] == [
        ("g-lora", "lora", "none"),
        ("g-qlora", "lora", "nf4-double"),
    ]


def test_the_interface_takes_it() -> None:
    state = start(
        Path(), model="llama-60m", flags={"--method": "gradnormlorp", "--projection-rank": "4", "--rank": "4"}
    )
    state.set("--method", "qlora")
    assert not state.problems
    assert state.plan.quantization == "nf4-double"
    assert state.plan.method == Lora(rank=4)
    assert "--projection-rank" not in state.flags


def test_the_schema_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    qlora, lora = schema["$defs"]["Qlora"], schema["$defs"]["Lora"]
    assert qlora["properties"]["kind"]["const"] == "qlora"
    assert qlora["properties"]["rank"] == lora["properties"]["rank"]
    assert qlora["required"] == ["kind"]
    assert lora["properties"]["kind"]["const"] == "lora"
    *_, union = schema["properties"]["method"]["anyOf"]
    assert {"$ref": union["discriminator"]["mapping"]["qlora"]} in union["oneOf"]


def test_a_sweep_says_which_is_which(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "llama-60m", "--method", "full,lora,qlora", "--rank", "4,8", "--gpu", "24GiB", "--format", "csv"]
    assert main(words) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["method"], row["rank"]) for row in rows] == [
        ("full", ""), ("lora", "4"), ("lora", "8"), ("qlora", "4"), ("qlora", "8")
    ]  # fmt: skip
    words = ["sweep", "llama-60m", "--method", "lora,qlora", "--quantization", "none,int8,nf4", "--gpu", "24GiB"]
    assert main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "4 OF 4 PLANS FIT" in out
    assert "left out: qlora is lora over a base in 4 bits, and --quantization is 'int8'" in out


def test_check_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('model = "gpt2"\nmethod = "qlora"\nquantization = "int8"\n')
    for words in (["--plan", str(path)], ["gpt2", "--method", "qlora", "--quantization", "int8"]):
        assert main(["check", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert "qlora" in err
