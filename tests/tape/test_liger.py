"""What Liger's kernels change, by their source: what is saved, and which gradients are written over what."""

import json
from pathlib import Path
from typing import Any

import pytest

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.prediction.estimate import model_of
from memplanner.program.liveness import Liveness
from memplanner.program.program import StepProgram
from memplanner.step.assemble import assemble
from memplanner.step.run import run

BATCH, SEQ, LAYERS = 2, 64, 3
HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 64, 160, 4, 2, 16
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": 256,
}
TOKENS = BATCH * SEQ


def step_of(folder: Path, kernels: tuple[str, ...], **fields: Any) -> StepProgram:
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG))
    table = {"model": str(path), "device": "24GiB", "step": {"kernels": kernels}, **fields}
    plan = TrainingPlan.model_validate(table)
    _, family, config = model_of(plan, Path())
    return run(assemble(plan, family, config, compute_capability=8.0), BATCH, SEQ)[0]


def saved(program: StepProgram) -> int:
    """Bytes alive where backward begins."""
    return next(phase.end for phase in Liveness(program).phases if phase.name == "loss")


def test_a_norm_saves_its_input_and_a_number_per_row(tmp_path: Path) -> None:
    """transformers' saves the input in fp32, and what is normalised in half precision before its weight; Liger's the
    input as it is; and both a number per row.
    """
    difference = saved(step_of(tmp_path, ())) - saved(step_of(tmp_path, ("liger-rms-norm",)))
    assert difference == (2 * LAYERS + 1) * TOKENS * HIDDEN * 4


def test_rotated_queries_and_keys_take_the_place_of_what_was_projected(tmp_path: Path) -> None:
    """Neither saves them before; transformers' code makes more than six tensors of the size of each."""
    plain, liger = step_of(tmp_path, ()), step_of(tmp_path, ("liger-rope",))
    assert saved(plain) == saved(liger)
    queries, keys = TOKENS * HEADS * HEAD_DIM * 2, TOKENS * KV_HEADS * HEAD_DIM * 2
    made = [sum(program.sizes) for program in (plain, liger)]
    assert made[0] - made[1] >= 6 * (queries + keys)
    assert {"times cosine", "rotated halves", "rotated"}.isdisjoint(tensor.name for tensor in liger.tensors)


def test_a_gated_product_saves_its_factors_and_makes_no_gradients(tmp_path: Path) -> None:
    """transformers' saves the gate before its activation as well; the down projection saves the product under both."""
    plain, liger = step_of(tmp_path, ()), step_of(tmp_path, ("liger-swiglu",))
    assert saved(plain) - saved(liger) == LAYERS * TOKENS * INNER * 2


def test_every_kernel_makes_the_peak_smaller(tmp_path: Path) -> None:
    kernels = ("liger-rms-norm", "liger-rope", "liger-swiglu")
    plain = max(phase.peak for phase in Liveness(step_of(tmp_path, ())).phases)
    for chosen in (*((kernel,) for kernel in kernels), kernels):
        assert max(phase.peak for phase in Liveness(step_of(tmp_path, chosen)).phases) <= plain


@pytest.mark.parametrize(
    ("model", "kernel", "said"),
    [
        ("gpt2", "liger-rope", "not modelled for the family gpt2"),
        ("bert-base", "liger-rms-norm", "for the family bert"),
    ],
)
def test_a_kernel_that_has_no_place_in_the_model_is_refused(model: str, kernel: str, said: str) -> None:
    plan = TrainingPlan.model_validate({"model": model, "step": {"kernels": [kernel]}})
    with pytest.raises(UserError, match=said):
        predict(plan)


def test_ligers_gated_product_has_silu(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"hidden_act": "gelu"}))
    with pytest.raises(UserError, match="another activation"):
        predict(TrainingPlan.model_validate({"model": str(path), "step": {"kernels": ["liger-swiglu"]}}))
