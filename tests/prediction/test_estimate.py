"""Verdicts at their boundaries, and regimes whose figures can be worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from memplanner.catalogue import all_gpus
from memplanner.errors import UserError
from memplanner.notes import AssumedContext, ContextAboveLimit, RankAboveMatrix, SequenceAboveModel, TypicalBatch
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, Predictor, predict
from memplanner.prediction.estimate import ASSUMED_CONTEXT_BYTES
from memplanner.timeline import advisable, passes


def estimate(**fields: Any) -> Estimate:
    return predict(TrainingPlan.model_validate({"model": "llama-60m", **fields}))


def test_exactly_at_the_limit_fits_and_one_byte_less_does_not() -> None:
    needed = estimate(device="24GiB").device_bytes

    def within(budget: int) -> Estimate:
        return estimate(device="24GiB", budget=f"{budget} B")

    assert within(needed).margin_bytes == 0
    assert within(needed).verdict == "tight"
    assert within(needed - 1).verdict == "does-not-fit"
    assert within(needed + within(needed).error_margin_bytes).verdict == "fits"


def test_budget_and_headroom() -> None:
    gib = 1 << 30
    assert estimate(device="10GiB").limit_bytes == 10 * gib
    assert estimate(device="10GiB", headroom="10%").limit_bytes == 9 * gib
    assert estimate(device="10GiB", budget="50%").limit_bytes == 5 * gib
    assert estimate(device="10GiB", budget="8GiB", headroom="3GiB").limit_bytes == 7 * gib
    assert estimate(device="10GiB", budget="20GiB").limit_bytes == 10 * gib


def test_a_card_adds_its_context_and_workspaces() -> None:
    card, bare = estimate(device="rtx4090"), estimate(device="24GiB")
    assert card.gpu is not None
    assert card.device_bytes - card.reserved_bytes == card.gpu.context.bytes > 0
    assert card.at_peak["workspaces"] == 2 * card.gpu.cublas_workspace.bytes
    assert bare.context_bytes == ASSUMED_CONTEXT_BYTES
    hopper = estimate(device="h100-sxm")
    assert hopper.at_peak["workspaces"] == 2 * 32 * (1 << 20)


def test_the_assumed_context_is_the_largest_of_the_bundled_nvidia_cards() -> None:
    assert max(card.context.bytes for card in all_gpus() if card.vendor == "nvidia") == ASSUMED_CONTEXT_BYTES
    bare = estimate(device="24GiB")
    assert bare.is_context_assumed
    assert bare.notes == (AssumedContext(context_bytes=ASSUMED_CONTEXT_BYTES),)


@pytest.mark.parametrize(("context", "expected"), [("0", 0), ("0B", 0), ("500MiB", 500 << 20)])
@pytest.mark.parametrize("device", [{"kind": "size", "memory": "24GiB"}, {"kind": "gpu", "name": "rtx4090"}])
def test_a_stated_context_is_taken(device: dict[str, str], context: str, expected: int) -> None:
    stated = estimate(device=device | {"context": context})
    assert (stated.context_bytes, stated.is_context_assumed, stated.notes) == (expected, False, ())
    assert stated.device_bytes == stated.reserved_bytes + expected
    assert stated.reserved_bytes == estimate(device=device).reserved_bytes


@pytest.mark.parametrize("device", ["1B", "500MiB", "710MiB", {"kind": "gpu", "name": "t4", "context": "40GiB"}])
def test_nothing_fits_beside_a_context_above_the_memory(device: Any) -> None:
    predicted = estimate(device=device)
    assert (predicted.verdict, predicted.is_hopeless, predicted.is_squeezed) == ("does-not-fit", True, False)
    assert predicted.device_bytes == predicted.wanted_bytes + predicted.context_bytes
    assert predicted.margin_bytes == predicted.limit_bytes - predicted.device_bytes < 0
    assert ContextAboveLimit(context_bytes=predicted.context_bytes) in predicted.notes


def test_notes_of_one_device_are_not_said_of_another_that_runs_the_same_step() -> None:
    predictor = Predictor()
    for device in ("24GiB", "rtx4090", {"kind": "size", "memory": "24GiB", "context": "0"}, "rtx5090", "24GiB", "1MiB"):
        plan = TrainingPlan.model_validate({"model": "llama-60m", "device": device})
        assert predictor(plan).notes == predict(plan).notes


def end_of(phase: str, predicted: Estimate) -> int:
    return next(p.end_bytes for p in predicted.live_phases if p.name == phase)


def test_gradients_kept_are_alive_in_forward() -> None:
    plain, kept = estimate(), estimate(step={"keep_gradients": True})
    gradients = sum(t.block_bytes for t in kept.program.persistent if t.trainable)
    assert end_of("loss", kept) - end_of("loss", plain) == gradients
    assert end_of("backward", kept) == end_of("backward", plain)
    accumulated = estimate(step={"grad_accumulation": 4})
    assert end_of("loss", accumulated) == end_of("loss", kept)
    assert end_of("steady", accumulated) == end_of("steady", plain) == end_of("steady", kept) - gradients


def test_the_output_object_holds_the_logits() -> None:
    step = {"batch_size": 2, "seq_len": 64}
    plain, with_outputs = estimate(step=step), estimate(step={**step, "keep_outputs": True})
    assert end_of("loss", with_outputs) - end_of("loss", plain) == 2 * 64 * 32000 * 2


def test_foreach_makes_a_root_per_parameter() -> None:
    foreach, fused = estimate(), estimate(optimizer="adamw-fused")
    peak = next(p for p in foreach.live_phases if p.name == "update")
    weights = sum(t.block_bytes for t in foreach.program.persistent if t.trainable)
    assert peak.peak_bytes - end_of("backward", foreach) == weights
    quiet = next(p for p in fused.live_phases if p.name == "update")
    assert quiet.peak_bytes == end_of("backward", fused)


def test_per_layer_updates_keep_no_gradients() -> None:
    predicted = estimate(step={"per_layer_updates": True})
    assert predicted.persistent["gradients"] == 0
    assert (
        end_of("backward", predicted) == end_of("steady", predicted) + 2 * 2048 + 512 - 512
    )  # the two token tensors of 256 × 8 B


def test_the_cross_entropy_peak_is_twelve_bytes_per_logit() -> None:
    tokens, vocab = 16 * 256, 32000
    predicted = estimate(method="lora", step={"batch_size": 16, "seq_len": 256, "checkpointing": "full"})
    assert predicted.peak_phase == "backward"
    logits = [r for r in predicted.rows if r.shape[-1:] == (vocab,) and r.dtype == "fp32"]
    assert len(logits) == 3
    assert sum(r.bytes for r in logits) == 12 * tokens * vocab


def test_a_sequence_beyond_the_position_table_is_refused() -> None:
    with pytest.raises(UserError, match="1025 is above the 1024 positions of gpt2"):
        predict(TrainingPlan.model_validate({"model": "gpt2", "step": {"seq_len": 1025}}))
    with pytest.raises(UserError, match="513 is above the 512 positions of roberta-base"):
        predict(TrainingPlan.model_validate({"model": "roberta-base", "step": {"seq_len": 513}}))


def test_targets_that_match_no_module_are_refused() -> None:
    with pytest.raises(UserError, match="its modules: q_proj, k_proj"):
        estimate(method={"kind": "lora", "target_modules": ["querry"]})


def test_llama_405b_is_predicted_with_its_126_layers() -> None:
    predicted = predict(TrainingPlan.model_validate({"model": "llama-3.1-405b", "method": "lora", "device": "b200"}))
    assert predicted.verdict == "does-not-fit"
    assert predicted.num_parameters > 405_000_000_000


def test_a_config_that_changes_is_read_again(tmp_path: Path) -> None:
    config = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    path = tmp_path / "config.json"
    counts = []
    for vocab in (512, 1024):
        path.write_text(json.dumps({"model_type": "llama", **config, "vocab_size": vocab}) + " " * (vocab // 512))
        counts.append(estimate(model=str(path), device="24GiB").num_parameters)
    assert counts[1] - counts[0] == 2 * 512 * 64


def test_adjacent_runs_of_equal_blocks() -> None:
    method = {"kind": "lora", "rank_pattern": {"layers.1.self_attn.q_proj": 4}}
    plan = TrainingPlan.model_validate(
        {"model": "llama-130m", "method": method, "step": {"checkpointing": "every-4", "input_gradients": False}}
    )
    assert predict(plan).live_phases == predict(plan, collapse=False).live_phases


def test_an_ordinary_batch_beside_the_longest() -> None:
    predicted = estimate(step={"seq_len": 1024, "typical_seq_len": 300})
    short = estimate(step={"seq_len": 300})
    assert predicted.live_bytes == estimate(step={"seq_len": 1024}).live_bytes
    assert predicted.notes == (TypicalBatch(seq_len=300, allocated_bytes=short.allocated_bytes),)


def test_allocator_options_change_reserved_alone() -> None:
    def of(**options: Any) -> Estimate:
        fields = {"model": "llama-350m", "device": "24GiB", "allocator": options, "step": {"batch_size": 4}}
        return predict(TrainingPlan.model_validate(fields))

    plain, expandable, capped = of(), of(expandable_segments=True), of(max_split_size="64MiB")
    assert plain.live_bytes == expandable.live_bytes == capped.live_bytes
    assert expandable.live_bytes <= expandable.reserved_bytes < plain.reserved_bytes
    assert plain.reserved_bytes - expandable.reserved_bytes == plain.expandable_saving_bytes
    assert capped.reserved_bytes != plain.reserved_bytes
    assert expandable.expandable_saving_bytes == 0


def test_unused_segments_are_returned_on_a_device_that_is_short_of_memory() -> None:
    """Between what is alive and what would be reserved there are sizes at which the cache must be emptied."""

    def on(size: int) -> Estimate:
        return predict(
            TrainingPlan.model_validate(
                {
                    "model": "llama-1b",
                    "method": "full",
                    "device": {"kind": "size", "memory": f"{size} B", "context": "0"},
                }
            )
        )

    roomy = on(24 << 30)
    assert not roomy.is_squeezed
    squeezed = on(roomy.reserved_bytes - (64 << 20))
    assert squeezed.is_squeezed
    assert squeezed.live_bytes <= squeezed.reserved_bytes <= squeezed.total_bytes
    assert squeezed.verdict == "tight"
    assert not advisable(squeezed), "it passes, and is nothing to recommend"
    assert passes(squeezed.verdict)
    assert squeezed.wanted_bytes == roomy.reserved_bytes > squeezed.reserved_bytes
    short = on(roomy.live_bytes + (64 << 20))
    assert (short.is_squeezed, short.verdict) == (False, "does-not-fit")
    assert short.reserved_bytes == roomy.reserved_bytes


@pytest.mark.parametrize(
    ("model", "max_positions"), [("llama-60m", 1024), ("tinyllama-1.1b", 2048), ("qwen3-0.6b", 40960)]
)
def test_a_sequence_above_max_position_embeddings_is_said_of_every_rotary_model(model: str, max_positions: int) -> None:
    fields: dict[str, Any] = {"model": model, "method": "lora"}
    predictor = Predictor()
    for seq_len in (1, max_positions, max_positions + 1, 2 * max_positions, max_positions - 1):
        plan = TrainingPlan.model_validate(fields | {"step": {"seq_len": seq_len}})
        expected = (SequenceAboveModel(max_positions=max_positions),) if seq_len > max_positions else ()
        assert predict(plan).notes == expected
        assert predictor(plan).notes == expected


@pytest.mark.parametrize(("model", "room"), [("gpt2", 1024), ("bert-base-uncased", 512), ("roberta-base", 512)])
def test_a_sequence_above_a_position_table_is_refused_of_every_family(model: str, room: int) -> None:
    notes = predict(TrainingPlan.model_validate({"model": model, "step": {"seq_len": room}})).notes
    assert not any(isinstance(note, SequenceAboveModel) for note in notes)
    with pytest.raises(UserError, match=f"{room + 1} is above the {room} positions of {model}"):
        predict(TrainingPlan.model_validate({"model": model, "step": {"seq_len": room + 1}}))


@pytest.mark.parametrize("model", ["llama-60m", "gpt2", "bert-base-uncased"])
@pytest.mark.parametrize(
    ("method", "is_capped"),
    [
        ({"kind": "lora"}, False),
        ({"kind": "dora"}, False),
        ({"kind": "galore"}, True),
        ({"kind": "gradnormlorp"}, False),
        ({"kind": "gradnormlorp", "implementation": "weight-norm-galore-adamw"}, True),
    ],
)
def test_a_rank_above_a_matrix_is_said_of_every_family_and_method(
    model: str, method: dict[str, Any], is_capped: bool
) -> None:
    side = {"llama-60m": 512}.get(model, 768)
    for rank in (side, side + 1):
        fields = {"model": model, "method": method | {"rank": rank}, "device": "80GiB", "step": {"seq_len": 8}}
        said = [
            note for note in predict(TrainingPlan.model_validate(fields)).notes if isinstance(note, RankAboveMatrix)
        ]
        assert said == [RankAboveMatrix(rank=rank, smaller_side=side, is_capped=is_capped)] * (rank > side)
