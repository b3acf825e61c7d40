"""What must hold for every plan: conservation, order, monotony, and collapsed blocks equal to walked ones."""

import json
import re
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from memplanner.catalogue import capability_of
from memplanner.notes import Note
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, Predictor, predict
from memplanner.prediction.estimate import estimate_of, gpu_of, model_of
from memplanner.program.liveness import Liveness
from memplanner.program.symbolic_program import SymbolicProgram
from memplanner.step.assemble import assemble
from memplanner.step.run import run_symbolically
from memplanner.timeline import CATEGORIES, PHASES, TensorRow
from tests.pairs import exists

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}
BLOCK = 512
CODE_BOOKS = 2 * 256 * 4

every_plan = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=(HealthCheck.too_slow,),
)

MODELS = ("llama-60m", "gpt2", "roberta-base", "smollm2-135m")
Fields = dict[str, Any]

precisions = st.sampled_from(("fp32", "bf16", "fp16", "bf16-mixed", "fp16-mixed"))
ranks = st.sampled_from((1, 3, 8, 64, 200, 1000))
targets = st.sampled_from(((), ("all-linear",)))
attentions = st.sampled_from(("eager", "sdpa", "sdpa-math", "sdpa-efficient"))
losses = st.sampled_from(("cross-entropy", "chunked", "fused"))
checkpointings = st.sampled_from(("none", "full", "every-2", "every-3", "every-5"))

full = st.just({"kind": "full"})
adapters = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(("lora", "dora")),
        "rank": ranks,
        "target_modules": targets,
        "dropout": st.sampled_from((0.0, 0.1)),
        "adapter_dtype": st.sampled_from(("fp32", "base")),
    }
)
galore = st.fixed_dictionaries(
    {
        "kind": st.just("galore"),
        "rank": ranks,
        "target_modules": targets,
        "accounting": st.sampled_from(("as-coded", "as-published")),
    }
)
gradnormlorp = st.fixed_dictionaries(
    {
        "kind": st.just("gradnormlorp"),
        "rank": ranks,
        "target_modules": targets,
        "projection_rank": st.sampled_from((1, 4, 64)),
        "projection": st.sampled_from(("two-sided", "one-sided")),
        "norm": st.sampled_from(("detached", "exact")),
        "train_rest": st.booleans(),
        "implementation": st.sampled_from(
            ("reparameterised", "low-rank-weight-norm-adamw", "weight-norm-galore-adamw", "dora-galore")
        ),
    }
)
methods = st.one_of(full, adapters, galore, gradnormlorp)
adamw = st.fixed_dictionaries(
    {
        "kind": st.just("adamw"),
        "implementation": st.sampled_from(("foreach", "fused", "for-loop")),
        "state_dtype": st.sampled_from(("param", "fp32", "bf16")),
    }
)
whole_states = st.one_of(
    adamw,
    st.fixed_dictionaries({"kind": st.just("sgd"), "momentum": st.sampled_from((0.0, 0.9))}),
    st.fixed_dictionaries({"kind": st.just("adafactor"), "beta1": st.booleans()}),
)
eight_bit = st.fixed_dictionaries(
    {"kind": st.just("adamw-8bit"), "format": st.sampled_from(("bitsandbytes", "torchao"))}
)
optimizers = st.one_of(whole_states, eight_bit)
steps: st.SearchStrategy[Fields] = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 5),
        "seq_len": st.sampled_from((1, 7, 32, 100, 256, 500)),
        "keep_outputs": st.booleans(),
        "input_gradients": st.sampled_from((None, True, False)),
        "checkpointing": checkpointings,
        "use_reentrant": st.booleans(),
        "attention": attentions,
        "padding": st.booleans(),
        "loss": losses,
    }
)
regimes: st.SearchStrategy[Fields] = st.sampled_from(
    (
        {},
        {"grad_accumulation": 3},
        {"keep_gradients": True},
        {"grad_accumulation": 2, "keep_gradients": True},
        {"per_layer_updates": True},
    )
)


@st.composite
def plans(
    draw: st.DrawFn,
    method: st.SearchStrategy[Fields] = methods,
    optimizer: st.SearchStrategy[Fields] = optimizers,
) -> Fields:
    chosen = draw(method)
    frozen = chosen["kind"] in ("lora", "dora")
    step = draw(steps) | draw(regimes)
    if step["use_reentrant"] and step["input_gradients"] is False:
        step["input_gradients"] = None  # nothing in a checkpointed block would be trained
    plan = {
        "model": draw(st.sampled_from(MODELS)),
        "method": chosen,
        "precision": draw(precisions),
        "quantization": draw(st.sampled_from(("none", "int8", "nf4", "nf4-double"))) if frozen else "none",
        "kbit_preparation": draw(st.booleans()),
        "optimizer": draw(optimizer),
        "step": step,
        "device": draw(st.sampled_from(("24GiB", "rtx4090", "t4"))),
    }
    assume(exists(plan) or exists(plan := {**plan, "optimizer": {"kind": "adamw"}}))
    return plan


def changed(fields: Fields, group: str, **values: Any) -> Fields:
    return {**fields, group: {**fields[group], **values}}


def estimate(fields: Fields) -> Estimate:
    if not exists(fields):
        assume(False)
    return predict(TrainingPlan.model_validate(fields))


def phase_bytes(predicted: Estimate) -> dict[str, tuple[int, int]]:
    return {phase.name: (phase.peak_bytes, phase.end_bytes) for phase in predicted.live_phases}


def assert_no_phase_lower(lower: Estimate, higher: Estimate, but: str = "") -> None:
    """Each phase of `higher` peaks and ends no lower than that of `lower`; `but` may peak lower. `higher` may refresh
    where `lower` has nothing to project, as where a projection's rank covers the lower rank of a factor.
    """
    small, large = phase_bytes(lower), phase_bytes(higher)
    assert large.keys() - small.keys() <= {"refresh"}
    assert small.keys() <= large.keys()
    for name, (peak, end) in small.items():
        assert name == but or large[name][0] >= peak, f"peak of {name}"
        assert large[name][1] >= end, f"end of {name}"


# -- collapsed == expanded -----------------------------------------------------------------------------------------


def assert_same_walk(fields: Fields, root: Path = Path()) -> None:
    plan = TrainingPlan.model_validate(fields)
    collapsed, expanded = predict(plan, root=root), predict(plan, root=root, collapse=False)
    assert phase_bytes(collapsed) == phase_bytes(expanded)
    assert collapsed.peak_phase == expanded.peak_phase
    assert collapsed.at_peak == expanded.at_peak
    assert collapsed.persistent == expanded.persistent
    assert (collapsed.num_parameters, collapsed.num_trainable) == (expanded.num_parameters, expanded.num_trainable)
    assert sum(row.bytes for row in expanded.rows) == expanded.live_bytes


@every_plan
@given(plans())
def test_the_collapsed_program_equals_the_expanded_one(fields: Fields) -> None:
    assert_same_walk(fields)


@pytest.mark.parametrize("checkpointing", ["none", "full", "every-3"])
def test_a_first_block_of_another_type_is_written_by_itself(checkpointing: str) -> None:
    """Adapters in fp32 over embeddings in bf16: the first block takes bf16, and every block gives fp32."""
    fields: Fields = {
        "model": "smollm2-135m",
        "method": {"kind": "dora", "rank": 8, "dropout": 0.1, "target_modules": ["all-linear"]},
        "quantization": "nf4-double",
        "kbit_preparation": "norms",
        "precision": "bf16-mixed",
        "master_weights": False,
        "step": {"checkpointing": checkpointing, "input_gradients": True, "seq_len": 64},
    }
    assert_same_walk(fields)


@every_plan
@given(plans(), st.integers(1, 20), st.sampled_from((1, 7, 32, 100, 128, 129, 256, 500, 512)))
def test_a_symbolic_program_at_other_sizes_equals_the_one_written_for_them(
    fields: Fields, batch: int, seq: int
) -> None:
    plan = TrainingPlan.model_validate(fields)
    fields = changed(fields, "step", batch_size=batch, seq_len=seq)
    pattern, notes = _pattern(plan)
    program = pattern.at(batch, seq)
    if program is None:
        return
    alone = estimate(fields)
    there = estimate_of(TrainingPlan.model_validate(fields), alone.model, alone.gpu, program, notes)
    assert program.sizes == alone.program.sizes
    assert program.structure == alone.program.structure
    assert there.live_phases == alone.live_phases
    assert there.rows == alone.rows
    assert there.reserved_bytes == alone.reserved_bytes
    assert there.notes == alone.notes


def _pattern(plan: TrainingPlan) -> tuple[SymbolicProgram, tuple[Note, ...]]:
    _, family, config = model_of(plan, Path())
    step = assemble(plan, family, config, compute_capability=capability_of(gpu_of(plan)))
    return run_symbolically(step, plan.step.batch_size, plan.step.seq_len)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "sdpa-math"])
@pytest.mark.parametrize("loss", ["cross-entropy", "chunked", "fused", "cut-cross-entropy"])
@pytest.mark.parametrize("model", MODELS)
def test_one_symbolic_program_serves_most_other_sizes(model: str, loss: str, attention: str) -> None:
    step = {"batch_size": 2, "seq_len": 128, "attention": attention, "loss": loss}
    pattern, _ = _pattern(TrainingPlan.model_validate({"model": model, "step": step}))
    assert all(pattern.at(batch, seq) for batch in (2, 3, 16) for seq in (64, 128, 512))


def test_a_single_sequence_that_needs_fewer_copies_has_its_own_program() -> None:
    fields: Fields = {"model": "llama-60m", "step": {"batch_size": 2, "seq_len": 128, "attention": "eager"}}
    assert _pattern(TrainingPlan.model_validate(fields))[0].at(1, 128) is None
    predictor = Predictor()
    for batch in (2, 4, 1, 8, 1):
        plan = TrainingPlan.model_validate(changed(fields, "step", batch_size=batch))
        assert predictor(plan).rows == predict(plan).rows


TINY: dict[str, Fields] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "vocab_size": 300,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "vocab_size": 300},
    "roberta": {
        "model_type": "roberta",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "vocab_size": 300,
        "max_position_embeddings": 130,
    },
}


def tiny(family: str, num_layers: int, folder: Path) -> str:
    """The path of a small config of that many blocks."""
    path = folder / f"{family}-{num_layers}.json"
    key = "n_layer" if family == "gpt2" else "num_hidden_layers"
    path.write_text(json.dumps(TINY[family] | {key: num_layers}))
    return str(path)


@pytest.mark.parametrize(("input_gradients", "use_reentrant"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", TINY)
def test_every_depth_and_checkpointing_collapses(
    family: str, method: str, input_gradients: bool, use_reentrant: bool, tmp_path: Path
) -> None:
    """One block and many, every N-th block with and without blocks left over."""
    for num_layers in (1, 2, 3, 4, 5, 6, 7, 9):
        model = tiny(family, num_layers, tmp_path)
        for checkpointing in ("none", "full", "every-2", "every-3", "every-4"):
            step = {"checkpointing": checkpointing, "input_gradients": input_gradients, "seq_len": 64}
            step["use_reentrant"] = use_reentrant
            assert_same_walk({"model": model, "method": method, "device": "24GiB", "step": step})


@pytest.mark.parametrize("pattern", ["layers.0.self_attn.q_proj", "layers.2.self_attn.v_proj", "layers.5.mlp.up_proj"])
@pytest.mark.parametrize("checkpointing", ["none", "full", "every-2"])
def test_a_block_of_another_rank_is_written_by_itself(pattern: str, checkpointing: str, tmp_path: Path) -> None:
    method = {"kind": "lora", "rank": 4, "target_modules": ["all-linear"], "rank_pattern": {pattern: 32}}
    step = {"checkpointing": checkpointing, "seq_len": 64}
    fields = {"model": tiny("llama", 6, tmp_path), "method": method, "device": "24GiB", "step": step}
    assert_same_walk(fields)
    plain = estimate({**fields, "method": {**method, "rank_pattern": {}}})
    shape = (64, 160) if "mlp" in pattern else (64, 64)
    assert estimate(fields).num_trainable - plain.num_trainable == 28 * sum(shape)


@pytest.mark.parametrize("checkpointing", ["none", "full", "every-2", "every-4"])
@pytest.mark.parametrize("kind", ["lora", "dora", "galore", "gradnormlorp"])
@pytest.mark.parametrize(
    "targets",
    [
        ["layers.0.self_attn.q_proj"],
        ["layers.5.self_attn.q_proj", "layers.6.mlp.up_proj"],
        r".*layers\.[3-9]\..*_proj",
        r".*layers\.[0-5]\.mlp\..*_proj",
        r".*layers\.\d*[02468]\.mlp\..*_proj",
    ],
    ids=str,
)
def test_blocks_of_other_targets_are_written_apart(kind: str, targets: Any, checkpointing: str, tmp_path: Path) -> None:
    method = {"kind": kind, "rank": 4, "target_modules": targets}
    step = {"checkpointing": checkpointing, "seq_len": 64}
    model = tiny("llama", 10, tmp_path)
    autocast = {"precision": "bf16-mixed", "master_weights": False}
    precision = {"quantization": "nf4", "kbit_preparation": "norms", **autocast} if kind == "lora" else {}
    for more in ({}, precision, {"step": step | {"input_gradients": False}}):
        assert_same_walk({"model": model, "method": method, "device": "24GiB", "step": step, **more})


@pytest.mark.parametrize("checkpointing", ["none", "full", "every-2"])
@pytest.mark.parametrize(
    "names", [["layers.0.mlp"], ["2.self_attn.v_proj", "norm"], ["embed_tokens", "lm_head"]], ids=str
)
def test_blocks_with_copies_are_written_apart(names: list[str], checkpointing: str, tmp_path: Path) -> None:
    method = {"kind": "lora", "rank": 4, "target_modules": ["q_proj"], "modules_to_save": names}
    step = {"checkpointing": checkpointing, "seq_len": 64}
    assert_same_walk({"model": tiny("llama", 6, tmp_path), "method": method, "device": "24GiB", "step": step})


HALF: Fields = {"precision": "bf16-mixed", "master_weights": False, "kbit_preparation": "none", "device": "24GiB"}
fused = st.fixed_dictionaries(
    {
        "kernels": st.lists(st.sampled_from(("mlp", "qkv", "o")), min_size=1),
        "target_modules": st.sampled_from(([], ["all-linear"], ["o_proj"], r".*layers\.[2-4]\..*_proj")),
        "dropout": st.sampled_from((0.0, 0.1)),
        "adapter_dtype": st.sampled_from(("fp32", "base")),
    }
)


@every_plan
@given(fused, st.sampled_from(("none", "nf4", "nf4-double")), steps | regimes, st.integers(1, 20))
def test_kernels_for_lora_collapse_and_serve_other_sizes(
    method: Fields, quantization: str, step: Fields, batch: int
) -> None:
    if step.get("use_reentrant"):
        step = {**step, "input_gradients": None}
    method = {"kind": "lora", "rank": 4, **method}
    fields = {**HALF, "model": "smollm2-135m", "method": method, "quantization": quantization, "step": step}
    assert_same_walk(fields)
    program = _pattern(TrainingPlan.model_validate(fields))[0].at(batch, 128)
    if program is not None:
        alone = estimate(changed(fields, "step", batch_size=batch, seq_len=128)).program
        assert (program.sizes, program.structure) == (alone.sizes, alone.structure)


# -- conservation --------------------------------------------------------------------------------------------------


@every_plan
@given(plans())
def test_rows_sum_to_the_peak(fields: Fields) -> None:
    predicted = estimate(fields)
    assert predicted.live_bytes == max(phase.peak_bytes for phase in predicted.live_phases)
    assert sum(row.bytes for row in predicted.rows) == predicted.live_bytes
    assert sum(predicted.at_peak.values()) == predicted.live_bytes
    assert tuple(predicted.at_peak) == CATEGORIES
    for category, total in predicted.at_peak.items():
        assert sum(row.bytes for row in predicted.rows if row.category == category) == total
    assert [row.bytes for row in predicted.rows] == sorted((row.bytes for row in predicted.rows), reverse=True)


@every_plan
@given(plans())
def test_nothing_is_negative(fields: Fields) -> None:
    predicted = estimate(fields)
    assert all(row.bytes > 0 and row.count > 0 for row in predicted.rows)
    assert all(total >= 0 for total in predicted.at_peak.values())
    assert all(total >= 0 for total in predicted.persistent.values())
    assert all(live > 0 for _, live, _ in predicted.timeline.points())
    assert 0 < predicted.num_trainable <= predicted.num_parameters


def _formula(text: str) -> int:
    """The product that a formula such as "4 batch × 256 seq × 2 B (bf16)" stands for."""
    factors = []
    for factor in text.split(" × "):
        match = re.match(r"\d+", factor)
        assert match is not None, text
        factors.append(int(match[0]))
    return prod(factors)


def assert_explained(row: TensorRow) -> None:
    """The formula's product is the exact size, and its last figure the row's bytes."""
    exact = prod(row.shape) * DTYPE_BYTES[row.dtype]
    text = row.why
    if row.count > 1:
        head, tail = f"{row.count} × (", f") = {row.bytes:,} B"
        assert text.startswith(head), text
        assert text.endswith(tail), text
        text = text[len(head) : -len(tail)]
    formula, _, result = text.partition(" = ")
    assert _formula(formula) == exact, row
    assert formula.endswith(f"{DTYPE_BYTES[row.dtype]} B ({row.dtype})"), row
    one = row.bytes // row.count
    assert result == (f"{exact:,} B" if one == exact else f"{exact:,} B, in blocks of 512 B: {one:,} B")


@every_plan
@given(plans())
def test_every_row_holds_its_tensor_and_says_why(fields: Fields) -> None:
    for row in estimate(fields).rows:
        exact = row.count * prod(row.shape) * DTYPE_BYTES[row.dtype]
        assert exact <= row.bytes < exact + BLOCK * row.count
        assert row.bytes % (BLOCK * row.count) == 0
        assert row.name == row.name.strip() != ""
        assert_explained(row)


@every_plan
@given(plans())
def test_persistent_gradients_are_the_trainable_bytes(fields: Fields) -> None:
    predicted = estimate(fields)
    trained = [p for p in predicted.program.persistent if p.trainable]
    weights = sum(p.copies * p.shape.numel * p.dtype.size for p in trained)
    assert predicted.persistent["gradients"] == (0 if predicted.plan.step.per_layer_updates else weights)
    assert predicted.num_trainable == sum(p.copies * p.shape.numel for p in trained)
    weights_and_adapters = [h for h in predicted.program.persistent if h.category in ("parameters", "adapters")]
    assert predicted.persistent["parameters"] + predicted.persistent["adapters"] == sum(
        h.num_bytes for h in weights_and_adapters
    )


# -- the timeline --------------------------------------------------------------------------------------------------


@every_plan
@given(plans())
def test_phases_come_in_order(fields: Fields) -> None:
    found = estimate(fields)
    names = [phase.name for phase in found.live_phases]
    refreshes = fields["method"]["kind"] in ("galore", "gradnormlorp")
    assert names == [name for name in PHASES if name != "refresh" or refreshes]
    assert all(phase.peak_bytes >= phase.end_bytes for phase in found.live_phases)
    stretch = [phase for phase in found.live_phases if phase.name != "refresh"]
    assert all(after.peak_bytes >= before.end_bytes for before, after in pairwise(stretch[:-1]))
    assert stretch[-1].peak_bytes == stretch[-1].end_bytes
    if refreshes:
        where = "backward" if found.plan.step.per_layer_updates else "update"
        peaks = phase_bytes(found)
        assert peaks["refresh"][0] >= peaks[where][0]


@every_plan
@given(plans())
def test_the_curve_passes_through_the_phases(fields: Fields) -> None:
    predicted = estimate(fields)
    curve = predicted.timeline.points()
    order = [PHASES.index(name) for name, _, _ in curve]
    assert order == sorted(order)
    for phase in predicted.live_phases:
        points = [live for name, live, _ in curve if name == phase.name]
        if points and phase.name not in ("refresh", "steady") and predicted.peak_phase != "refresh":
            assert max(points) == phase.peak_bytes
    if predicted.peak_phase != "refresh":
        assert max(live for _, live, _ in curve) == predicted.live_bytes


@every_plan
@given(plans())
def test_the_steady_bytes_are_those_that_outlive_a_step(fields: Fields) -> None:
    """Steady is what outlives the step: weights, states, projectors, workspaces, and gradients where they are kept."""
    predicted = estimate(fields)
    kept = [
        tensor.block_bytes
        for tensor in predicted.program.persistent
        if tensor.category != "gradients" or predicted.plan.step.keep_gradients
    ]
    assert predicted.live_phases[-1].end_bytes == sum(kept)


# -- monotony ------------------------------------------------------------------------------------------------------


@every_plan
@given(plans(), st.integers(1, 3))
def test_more_sequences_never_take_less(fields: Fields, more: int) -> None:
    larger = changed(fields, "step", batch_size=fields["step"]["batch_size"] + more)
    assert_no_phase_lower(estimate(fields), estimate(larger))


@every_plan
@given(plans(), st.sampled_from((1, 2, 11, 12)))
def test_longer_sequences_never_take_less(fields: Fields, more: int) -> None:
    longer = changed(fields, "step", seq_len=fields["step"]["seq_len"] + more)
    assert_no_phase_lower(estimate(fields), estimate(longer))


@every_plan
@given(plans(st.one_of(adapters, galore, gradnormlorp), whole_states), st.sampled_from((1, 5, 300)))
def test_a_higher_rank_never_takes_less(fields: Fields, more: int) -> None:
    higher = changed(fields, "method", rank=fields["method"]["rank"] + more)
    assert_no_phase_lower(estimate(fields), estimate(higher))


def test_8bit_states_shrink_where_a_rank_lifts_them_over_the_threshold() -> None:
    """The exception: bitsandbytes keeps moments of under 4096 elements whole, so 5 × 768 take more than 6 × 768."""

    def state(rank: int) -> int:
        method = {"kind": "lora", "rank": rank}
        return estimate({"model": "gpt2", "method": method, "optimizer": "adamw-8bit"}).persistent["optimizer_state"]

    layers, inputs, outputs = 12, 768, 3 * 768
    whole = 2 * 4 * 5 * inputs
    b_at_5, b_at_6 = (2 * rank * outputs + 8 * -(-rank * outputs // 256) for rank in (5, 6))
    a_at_6 = 2 * 6 * inputs + 8 * (6 * inputs // 256)
    assert state(5) == layers * (whole + b_at_5) + CODE_BOOKS
    assert state(6) == layers * (a_at_6 + b_at_6) + CODE_BOOKS
    assert state(6) < state(5)


@every_plan
@given(plans(optimizer=adamw))
def test_wider_moments_never_take_less(fields: Fields) -> None:
    half, whole = (estimate(changed(fields, "optimizer", state_dtype=dtype)) for dtype in ("bf16", "fp32"))
    assert_no_phase_lower(half, whole)
    eight = estimate({**fields, "optimizer": {"kind": "adamw-8bit"}})
    objects = 1
    if fields["step"].get("per_layer_updates"):
        objects = sum(p.copies for p in eight.program.persistent if p.trainable)
    assert eight.persistent["optimizer_state"] <= whole.persistent["optimizer_state"] + objects * CODE_BOOKS


@pytest.mark.parametrize("model", MODELS)
def test_state_falls_with_the_bits(model: str) -> None:
    optimizers = ("adamw-8bit", {"kind": "adamw", "state_dtype": "bf16"}, {"kind": "adamw", "state_dtype": "fp32"})
    eight, sixteen, thirty_two = (
        estimate({"model": model, "optimizer": o}).persistent["optimizer_state"] for o in optimizers
    )
    assert eight < sixteen < thirty_two == 2 * sixteen
    assert eight == pytest.approx(sixteen / 2, rel=0.04)


@every_plan
@given(plans(adapters))
def test_fewer_bits_in_the_base_never_take_more(fields: Fields) -> None:
    kinds = ("nf4-double", "nf4", "int8")
    sizes = [estimate({**fields, "quantization": kind}).persistent["parameters"] for kind in kinds]
    assert sizes == sorted(sizes)
    whole = {**fields, "quantization": "none", "precision": "fp32"}
    assert sizes[-1] < estimate(whole).persistent["parameters"]


@every_plan
@given(plans(), st.sampled_from(("full", "every-2", "every-3")))
def test_checkpointing_never_saves_more_for_backward(fields: Fields, checkpointing: str) -> None:
    without = estimate(changed(fields, "step", checkpointing="none", input_gradients=True))
    within = estimate(changed(fields, "step", checkpointing=checkpointing, input_gradients=True))
    assert phase_bytes(within)["forward"][1] <= phase_bytes(without)["forward"][1]
    assert phase_bytes(within)["loss"][1] <= phase_bytes(without)["loss"][1]


@every_plan
@given(
    plans().filter(lambda f: f["method"]["kind"] != "dora" and f["method"].get("implementation") != "dora-galore"),
    st.sampled_from(("full", "every-2", "every-3")),
    st.sampled_from((100, 256, 500)),
)
def test_checkpointing_never_raises_the_activations_at_the_peak(
    fields: Fields, checkpointing: str, seq_len: int
) -> None:
    """DoRA is the exception: its (out, in) temporaries come again in the recomputation of the first block, when all
    gradients are there. So are a few tokens, whose activations are less than the gradients that wait for that block.
    """
    fields = changed(fields, "step", seq_len=seq_len, input_gradients=True, use_reentrant=False)
    without, within = (estimate(changed(fields, "step", checkpointing=c)) for c in ("none", checkpointing))
    assert within.live_bytes <= without.live_bytes
    if within.peak_phase == without.peak_phase:
        assert within.at_peak["activations"] <= without.at_peak["activations"]


@every_plan
@given(plans(), st.sampled_from(({"keep_gradients": True}, {"keep_outputs": True})))
def test_what_is_kept_never_lowers_the_peak(fields: Fields, kept: Fields) -> None:
    assume("keep_outputs" in kept or not fields["step"].get("per_layer_updates"))
    plain = estimate(changed(fields, "step", keep_outputs=False))
    assert estimate(changed(fields, "step", keep_outputs=False) | {}).live_bytes == plain.live_bytes
    assert estimate(changed(fields, "step", **({"keep_outputs": False} | kept))).live_bytes >= plain.live_bytes


# -- theory --------------------------------------------------------------------------------------------------------


@every_plan
@given(plans(galore))
def test_galore_at_full_rank_costs_at_least_the_plain_optimizer(fields: Fields) -> None:
    """A projected moment is then as large as the weight's, and the projector comes on top."""
    optimizer = fields["optimizer"]
    if optimizer["kind"] == "adamw":  # galore_torch's own goes parameter by parameter
        optimizer = {**optimizer, "implementation": "for-loop"}
    if optimizer["kind"] == "adamw-8bit" and fields["method"].get("accounting") != "as-published":
        optimizer = {**optimizer, "update_norms": True}  # a slip of galore_torch beside bitsandbytes 0.50
    projected = estimate(changed(fields, "method", rank=1 << 20))
    plain = estimate({**fields, "method": {"kind": "full"}, "optimizer": optimizer})
    assert projected.persistent["optimizer_state"] == plain.persistent["optimizer_state"]
    assert projected.persistent["projectors"] > 0 == plain.persistent["projectors"]
    assert projected.num_trainable == plain.num_trainable


@every_plan
@given(plans(adapters))
def test_dora_costs_lora_and_a_magnitude_per_row(fields: Fields) -> None:
    lora, dora = (estimate(changed(fields, "method", kind=kind)) for kind in ("lora", "dora"))
    magnitudes = [p for p in dora.program.persistent if p.role == "weight" and p.name.endswith("lora_magnitude_vector")]
    assert magnitudes
    assert dora.num_trainable - lora.num_trainable == sum(p.copies * p.shape.numel for p in magnitudes)
    # An optimizer's loop holds on to the parameter before: a short magnitude, under DoRA, where LoRA has a matrix.
    assert_no_phase_lower(lora, dora, but="update")


@every_plan
@given(plans())
def test_the_budget_moves_the_verdict_and_nothing_else(fields: Fields) -> None:
    plain = estimate(fields)
    budgeted = estimate({**fields, "budget": "1KiB", "headroom": "10%"})
    assert budgeted.verdict == "does-not-fit"
    assert phase_bytes(budgeted) == phase_bytes(plain)
    assert budgeted.rows == plain.rows


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("method", ["galore", "gradnormlorp"])
def test_a_refresh_adds_its_own_tensors_and_no_others(method: str, per_layer: bool) -> None:
    step = {"per_layer_updates": per_layer, "checkpointing": "full"}
    plan = TrainingPlan.model_validate({"model": "llama-60m", "method": method, "step": step})
    program = predict(plan).program
    assert program.refresh_only
    ordinary, refreshing = Liveness(program, skip=program.refresh_only), Liveness(program)
    where = "backward" if per_layer else "update"
    for plain, other in zip(ordinary.phases, refreshing.phases, strict=True):
        assert plain.end == other.end
        assert plain.peak <= other.peak if plain.name == where else plain.peak == other.peak
    assert {program.phases_of(index)[0] for index in program.refresh_only} == {where}


def test_cards_with_other_workspaces_share_the_program() -> None:
    predictor = Predictor()
    for plan in (
        TrainingPlan.model_validate({"model": "llama-60m", "method": "gradnormlorp", "device": gpu})
        for gpu in ("rtx4090", "h100-sxm", "rtx4090", "t4")
    ):
        shared, alone = predictor(plan), predict(plan)
        assert shared.live_phases == alone.live_phases
        assert (shared.device_bytes, shared.at_peak) == (alone.device_bytes, alone.at_peak)
        blocks = [[(h.name, h.block_bytes) for h in estimate.program.persistent] for estimate in (shared, alone)]
        assert blocks[0] == blocks[1]
