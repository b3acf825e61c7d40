"""Holds a recorded forward pass against traces of the very step, of a small model of the same kind."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from memplanner.catalogue import capability_of, find_gpu
from memplanner.components.architectures.recorded.settings import Recorded, read_recorded
from memplanner.files.write import write_text
from memplanner.frozen import Frozen
from memplanner.harness.forward.parts import in_small_model, rotary, tokens_within
from memplanner.harness.forward.recordings import Source, truncated_lists
from memplanner.harness.recording import record
from memplanner.plan.training_plan import TrainingPlan
from memplanner.program.liveness import Liveness
from memplanner.program.program import StepProgram
from memplanner.step.assemble import assemble
from memplanner.step.run import run

CARD: Final = "rtx4090"
TOLERANCE: Final = 0.005
"""By which a trace differs, of models so small that tensors of 512 bytes count: the CPU's layer norms keep their
numbers per row in bf16.
"""
SIZES: Final[Mapping[str, int]] = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 160,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
}
"""Of a model in whose trace every tensor can be told."""
NUM_LAYERS: Final = 6
_LORA: Final = {"kind": "lora", "rank": 16}
PLANS: Final[Mapping[str, Mapping[str, Any]]] = {
    "full, bf16": {"method": "full"},
    "LoRA, bf16-mixed, checkpointing": {
        "method": _LORA,
        "precision": "bf16-mixed",
        "step": {"checkpointing": "full"},
    },
    "LoRA over nf4": {"method": _LORA, "quantization": "nf4", "step": {"batch_size": 1}},
    "full, fp32, eager, every second block": {
        "method": "full",
        "precision": "fp32",
        "step": {"attention": "eager", "checkpointing": "every-2"},
    },
}
"""What is compared, by a name of it."""


class Compared(Frozen):
    """A recorded step beside a traced one. worst: the largest difference of a phase's peak or end, as a share of what
    is allocated then; phase: where. kept: whether parameters, gradients and states are equal to the byte.
    """

    plan: str
    worst: float
    phase: str
    kept: bool

    @property
    def holds(self) -> bool:
        """Whether the recording may answer."""
        return self.kept and self.worst <= TOLERANCE


def small_config(source: Source) -> dict[str, Any]:
    """A config.json of the same kind with small sizes."""
    text, fields = source.text, source.text.to_dict()
    names = {key: text.attribute_map.get(key, key) for key in (*SIZES, "num_hidden_layers")}
    own: dict[str, Any] = {names[key]: size for key, size in SIZES.items() if isinstance(fields.get(names[key]), int)}
    own |= {names["num_hidden_layers"]: NUM_LAYERS, **truncated_lists(text, NUM_LAYERS)}
    if getattr(text, "pad_token_id", None) is not None:
        own["pad_token_id"] = 0
    if source.nested:
        text_type = {"model_type": text.model_type} if isinstance(source.fields.get("text_config"), dict) else {}
        own |= {**text_type, **rotary(text, SIZES["head_dim"])}
        return source.changed(own, in_small_model(source.config), tokens_within(source.config))
    return {**source.fields, **own}


def compared(recorded: Recorded, config: Mapping[str, Any], plan: str) -> Compared:
    """The recording's step beside its trace, for a small config.json and the plan of this name."""
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "config.json", json.dumps(config))
        fields = PLANS[plan]
        step = {"batch_size": 2, "seq_len": 64, **fields.get("step", {})}
        asked = TrainingPlan.model_validate({"model": folder, "device": CARD, **fields, "step": step})
        theirs = record(asked)
    return beside(plan, step_of(recorded, config, asked), theirs)


def beside(name: str, ours: StepProgram, theirs: StepProgram) -> Compared:
    """Two programs of the same step, of which the second is right."""
    base = theirs.persistent.total
    differences = [
        (abs(mine - its) / (base + its), here.name)
        for here, there in zip(Liveness(ours).phases, Liveness(theirs).phases, strict=True)
        for mine, its in ((here.peak, there.peak), (here.end, there.end))
    ]
    worst, phase = max(differences)
    return Compared(
        plan=name, worst=worst, phase=phase, kept=ours.persistent.by_category == theirs.persistent.by_category
    )


def step_of(recorded: Recorded, config: Mapping[str, Any], plan: TrainingPlan) -> StepProgram:
    """The step that a recording gives."""
    family, settings = read_recorded(recorded, config, "config.json", attention=plan.step.attention)
    step = assemble(plan, family, settings, compute_capability=capability_of(find_gpu(CARD)))
    return run(step, plan.step.batch_size, plan.step.seq_len)[0]
