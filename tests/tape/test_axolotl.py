"""What Axolotl's kernels for LoRA change, by their source: what is kept, and which gradients are written over what."""

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

BATCH, SEQ, LAYERS, RANK = 2, 64, 3, 8
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
KERNELS = ("mlp", "qkv", "o")
QKV = [(HIDDEN, HEADS * HEAD_DIM), (HIDDEN, KV_HEADS * HEAD_DIM), (HIDDEN, KV_HEADS * HEAD_DIM)]
SIZES = {
    "mlp": [(HIDDEN, INNER), (HIDDEN, INNER), (INNER, HIDDEN)],
    "qkv": QKV,
    "o": [(HEADS * HEAD_DIM, HIDDEN)],
}
"""(in, out) of the layers of each kernel."""
NAMES = {
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "qkv": ["q_proj", "k_proj", "v_proj"],
    "o": ["o_proj"],
}


def plan_of(
    folder: Path, kernels: tuple[str, ...], config: dict[str, Any] | None = None, **fields: Any
) -> TrainingPlan:
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG | (config or {})))
    method = {"kind": "lora", "rank": RANK, "target_modules": ["all-linear"], "adapter_dtype": "base"}
    method |= {"kernels": kernels, **fields.pop("method", {})}
    return TrainingPlan.model_validate({"model": str(path), "device": "24GiB", "method": method, **fields})


def step_of(folder: Path, kernels: tuple[str, ...], *, seq: int = SEQ, **fields: Any) -> StepProgram:
    plan = plan_of(folder, kernels, **fields)
    _, family, config = model_of(plan, Path())
    return run(assemble(plan, family, config, compute_capability=8.0), BATCH, seq)[0]


def saved(program: StepProgram) -> int:
    """Bytes alive where backward begins."""
    return next(phase.end for phase in Liveness(program).phases if phase.name == "loss")


def block(num_bytes: int) -> int:
    return (num_bytes + 511) & -512


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_function_keeps_its_input_alone(tmp_path: Path, kernel: str) -> None:
    """peft's layers keep what A makes of the input too. Of the MLP also SiLU's output and the product that goes down,
    which backward computes again; gate and up are kept by both.
    """
    kept_by_peft = len(SIZES[kernel]) * TOKENS * RANK + (2 * TOKENS * INNER if kernel == "mlp" else 0)
    assert saved(step_of(tmp_path, ())) - saved(step_of(tmp_path, (kernel,))) == LAYERS * kept_by_peft * 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_factors_in_fp32_are_kept_in_the_inputs_type(tmp_path: Path, kernel: str) -> None:
    in_fp32 = step_of(tmp_path, (kernel,), method={"adapter_dtype": "fp32", "target_modules": NAMES[kernel]})
    as_input = step_of(tmp_path, (kernel,), method={"target_modules": NAMES[kernel]})
    copies = sum(block(RANK * side * 2) for sides in SIZES[kernel] for side in sides)
    assert saved(in_fp32) - saved(as_input) == LAYERS * copies


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_input_is_dropped_once_for_all_layers(tmp_path: Path, kernel: str) -> None:
    """What is left of the input, and where that has a gradient, a mask of one byte: not in the first block. Nothing
    is dropped in front of the down projection.
    """
    targets = {"target_modules": NAMES[kernel]}
    dropped = step_of(tmp_path, (kernel,), method={"dropout": 0.1, **targets})
    difference = saved(dropped) - saved(step_of(tmp_path, (kernel,), method=targets))
    width = HEADS * HEAD_DIM if kernel == "o" else HIDDEN
    assert difference == TOKENS * width * (LAYERS * 2 + LAYERS - 1)


def test_gradients_of_a_gated_mlp_take_the_place_of_what_was_kept(tmp_path: Path) -> None:
    """Backward makes one tensor as wide as the MLP for each block, peft's two for each of its products."""

    def wide(program: StepProgram) -> int:
        return sum(
            tensor.copies
            for tensor in program.tensors
            if tensor.category == "temporaries" and tensor.shape.numel == TOKENS * INNER
        )

    assert wide(step_of(tmp_path, KERNELS)) == LAYERS
    assert wide(step_of(tmp_path, ())) > 4 * LAYERS


def test_a_4_bit_weight_stands_dequantised_for_one_product(tmp_path: Path) -> None:
    """Backward dequantises each weight once more; never are there two at once."""
    program = step_of(tmp_path, KERNELS, seq=1, quantization="nf4-double", kbit_preparation="none")
    weights = {i for i, tensor in enumerate(program.tensors) if tensor.name == "dequantised weight"}
    assert sum(program.tensors[i].copies for i in weights) == 2 * 7 * LAYERS
    alive = most = 0
    for event in program.structure.events:
        if (event if event >= 0 else ~event) in weights:
            alive += 1 if event >= 0 else -1
            most = max(most, alive)
    assert (alive, most) == (0, 1)


@pytest.mark.parametrize(
    ("targets", "kernels"),
    [(["q_proj", "v_proj"], ()), (["q_proj", "k_proj", "v_proj", "up_proj"], ("qkv",)), (["o_proj"], ("o",))],
)
def test_a_kernel_runs_where_all_its_layers_have_adapters(
    tmp_path: Path, targets: list[str], kernels: tuple[str, ...]
) -> None:
    method = {"target_modules": targets}
    every, these = step_of(tmp_path, KERNELS, method=method), step_of(tmp_path, kernels, method=method)
    assert (every.sizes, every.structure) == (these.sizes, these.structure)


def test_every_kernel_makes_the_peak_smaller(tmp_path: Path) -> None:
    plain = predict(plan_of(tmp_path, ())).live_bytes
    for chosen in (*((kernel,) for kernel in KERNELS), KERNELS):
        assert predict(plan_of(tmp_path, chosen)).live_bytes <= plain


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quantization": "int8"}, "take no weights in int8"),
        ({"quantization": "nf4"}, "one type, .*\\(kbit_preparation none\\)"),
        ({"precision": "bf16-mixed"}, "one type, .*\\(master_weights false\\)"),
        ({"quantization": "nf4", "precision": "bf16-mixed"}, "kbit_preparation none, master_weights false"),
        ({"task": "sequence-classification"}, "the task is sequence-classification"),
        ({"config": {"hidden_act": "relu"}}, "its MLP for SiLU and GELU"),
    ],
    ids=str,
)
def test_what_axolotl_does_not_run_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        predict(plan_of(tmp_path, KERNELS, **fields))
    assert [problem.key for problem in caught.value.problems] == ["method.kernels"]


def test_a_family_without_such_layers_has_no_kernels() -> None:
    plan = TrainingPlan.model_validate({"model": "gpt2", "method": {"kind": "lora", "kernels": ["o"]}})
    with pytest.raises(UserError, match="not modelled for the family gpt2"):
        predict(plan)


def test_gelus_gated_mlp_has_a_kernel_as_well(tmp_path: Path) -> None:
    silu, gelu = (plan_of(tmp_path, KERNELS, {"hidden_act": word}) for word in ("silu", "gelu_pytorch_tanh"))
    assert predict(silu).live_bytes == predict(gelu).live_bytes
