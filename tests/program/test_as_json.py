"""Step programs survive JSON, those whose sizes are computed as well."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

from memplanner.catalogue import capability_of
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.prediction.estimate import estimate_of, gpu_of, model_of
from memplanner.program.as_json import dumps, loads
from memplanner.program.program import StepProgram
from memplanner.program.symbolic_program import SymbolicProgram
from memplanner.step.assemble import assemble
from memplanner.step.run import run_symbolically
from tests.prediction.test_invariants import Fields, every_plan, plans


@every_plan
@given(plans())
def test_a_program_is_read_back_as_it_was(fields: Fields) -> None:
    estimate = predict(TrainingPlan.model_validate(fields))
    again = loads(dumps(estimate.program))
    assert isinstance(again, StepProgram)
    assert dumps(again) == dumps(estimate.program)
    assert again.structure == estimate.program.structure
    other = estimate_of(estimate.plan, estimate.model, estimate.gpu, again, estimate.notes)
    assert (other.phases, other.live_phases) == (estimate.phases, estimate.live_phases)
    assert (other.rows, other.persistent) == (estimate.rows, estimate.persistent)
    assert (other.num_parameters, other.num_trainable) == (estimate.num_parameters, estimate.num_trainable)
    assert other.reserved_bytes == estimate.reserved_bytes


@every_plan
@given(plans())
def test_computed_sizes_are_read_back_as_they_were(fields: Fields) -> None:
    plan = TrainingPlan.model_validate(fields)
    _, family, config = model_of(plan, Path())
    step = assemble(plan, family, config, compute_capability=capability_of(gpu_of(plan)))
    symbolic, _ = run_symbolically(step, plan.step.batch_size, plan.step.seq_len)
    again = loads(dumps(symbolic))
    assert isinstance(again, SymbolicProgram)
    for batch, seq in ((plan.step.batch_size, plan.step.seq_len), (3, 96), (8, 512), (1, 1)):
        one, other = symbolic.at(batch, seq), again.at(batch, seq)
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.sizes == other.sizes
            shapes = [[p.described(i).shape.dims for i in range(len(p.sizes))] for p in (one, other)]
            assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "memplanner/program/99"}, "schema"),
        ({"phases": [["nap", 0]]}, "'nap' is not a phase"),
        ({"sizes": ["@3"]}, "the program has none"),
        ({"sizes": [True]}, "not a whole number"),
        ({"events": None}, "not a step program"),
        ({"arithmetic": {"inputs": 1, "values": [2], "steps": [["exec", 0, 0, 0]]}}, "'exec' is not an operation"),
    ],
)
def test_other_texts_than_programs_are_refused(change: dict[str, object], message: str) -> None:
    table = json.loads(dumps(predict(TrainingPlan(model="llama-60m")).program))
    with pytest.raises(ValueError, match=message):
        loads(json.dumps(table | change))


def test_reading_a_program_needs_neither_torch_nor_pydantic() -> None:
    code = "import sys, memplanner.program.as_json; print([m for m in ('torch', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
