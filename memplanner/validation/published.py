"""Rows of third parties' published measurements as plans.

The file: {"rows": [{id, source, gpu, num_gpus, model, arch, method, rank, …, measured: {…}, peer_predicted: {…}}]}.
Where a row does not state a setting, it is assumed from what is known of its source, and the assumption is listed.
"""

import json
from pathlib import Path
from typing import Annotated, Any
from zlib import crc32

from pydantic import ConfigDict, Field, ValidationError

from memplanner.catalogue import bundled_model, find_gpu
from memplanner.errors import UserError
from memplanner.files.parse import file_error, parse_json, read_text
from memplanner.files.sandbox import profiles_dir, scratch_folder
from memplanner.files.write import write_text
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, predict
from memplanner.settings.base import Settings
from memplanner.settings.errors import problems_of
from memplanner.timeline import passes
from memplanner.units import MAX_BYTES
from memplanner.validation.rows import Assumption, Row, Skipped, Validation

Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]
Text = Annotated[str, Field(max_length=1000)]


class Measured(Settings):
    """The figures measured for a row, in bytes; None where its source has none. Other keys of the file are ignored."""

    model_config = ConfigDict(extra="ignore")
    out_of_memory: bool = False
    allocated_peak: Bytes | None = None
    reserved_peak: Bytes | None = None
    process: Bytes | None = None
    steady: Bytes | None = None
    weights: Bytes | None = None
    weight_breakdown: dict[str, Bytes] | None = None
    optimizer_state: Bytes | None = None
    gradient: Bytes | None = None
    forward_peak: Bytes | None = None
    backward_peak: Bytes | None = None
    optimizer_peak: Bytes | None = None


class PeerPrediction(Settings):
    """What another tool predicted for the row, in bytes."""

    tool: Text
    allocated_peak: Bytes | None = None
    process: Bytes | None = None


class PublishedRow(Settings):
    """One published measurement: the run's settings, in the words of its source, and its figures."""

    model_config = ConfigDict(extra="ignore")
    id: Text
    source: Text
    gpu: Text
    num_gpus: Annotated[int, Field(ge=1)] = 1
    model: Text
    arch: dict[str, Any] | None = None
    method: Text
    rank: int | None = None
    target_modules: list[str] | None = None
    base_dtype: Text
    autocast: Text | None = None
    quantization: Text | None = None
    double_quant: bool = False
    optimizer: Text
    batch: Annotated[int, Field(ge=1)]
    seq: Annotated[int, Field(ge=1)]
    attention: Text
    checkpointing: Text
    framework: Text = "none"
    versions: dict[str, Text] = {}
    in_sample: bool = False
    """Whether what it measured has had a part in how the model was made."""
    measured: Measured
    peer_predicted: PeerPrediction | None = None


class PublishedFile(Settings):
    """The whole file; keys beside the rows are ignored."""

    model_config = ConfigDict(extra="ignore")
    rows: list[PublishedRow]


class InexpressibleError(Exception):
    """No plan can express what the row ran, or the row has nothing to compare a prediction with."""


def load_published(path: Path) -> list[PublishedRow]:
    """Read the file's rows. UserError that names what is wrong with the file."""
    text = read_text(path)
    parse_json(text, path)
    try:
        return PublishedFile.model_validate_json(text).rows
    except ValidationError as error:
        raise UserError(*problems_of(error, PublishedFile, lambda key: (str(path), ".".join(key)))) from None


def validate_published(path: Path) -> Validation:
    """Predict and compare every row; rows that no plan expresses are listed with the reason."""
    validation = Validation()
    rows = load_published(path)
    if not rows:
        raise file_error(path, "has no rows")
    with scratch_folder() as scratch:
        for row in rows:
            try:
                plan, assumptions = plan_of(row, scratch)
                estimate = predict(plan)
                compared = published_rows(row, estimate)
                if not compared and not row.measured.out_of_memory:
                    raise InexpressibleError("no figure was measured that a prediction has, too")
            except InexpressibleError as error:
                validation.skipped.append(Skipped(id=row.id, reason=str(error)))
                continue
            except UserError as error:
                validation.skipped.append(Skipped(id=row.id, reason="; ".join(str(p) for p in error.problems)))
                continue
            validation.assumptions += [Assumption(id=row.id, text=text) for text in assumptions]
            validation.rows += compared
            validation.note_verdict(row.id, fits=passes(estimate.verdict), ran_out=row.measured.out_of_memory)
    return validation


_PRECISIONS = {
    ("bfloat16", None): ("bf16", True),
    ("float16", None): ("fp16", True),
    ("float16", "float16"): ("fp16", True),  # half weights under autocast of the same type: autocast changes nothing
    ("float32", None): ("fp32", True),
    ("float32", "bfloat16"): ("bf16-mixed", True),
    ("float32", "float16"): ("fp16-mixed", True),
    ("bfloat16", "bfloat16"): ("bf16-mixed", False),
}
_ATTENTION = {
    "eager": "eager",
    "sdpa": "sdpa",
    "sdpa-efficient": "sdpa-efficient",
    "sdpa-efficient (key/value heads expanded before the kernel)": "sdpa-efficient",
    "flash_attention_2": "flash-attention-2",
}
_PLAIN = ("none", "baseline-peft-bnb", "accelerated-peft-bnb")
"""Frameworks that run the libraries' own kernels. The last is fms-acceleration's plugin without fused operations, whose
model is bitsandbytes' and peft's (framework_plugin_bnb.py): it only leaves out the casts to fp32."""
_OTHERS = {
    "foak": "its fused kernels (RoPE, RMSNorm, cross-entropy, LoRA) are not modelled",
    "gptq": "a GPTQ base is not modelled",
    "padding-free": "batches without padding are not modelled",
}
"""A part of a framework's name, and why its rows cannot be predicted."""
_QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]


def plan_of(row: PublishedRow, folder: Path) -> tuple[TrainingPlan, list[str]]:
    """The row's plan and the assumptions that it needed. A config.json for a model that is not bundled is written into
    `folder`. InexpressibleError where no plan expresses the row, UserError where a setting of it is wrong.
    """
    if row.num_gpus > 1:
        raise InexpressibleError(f"{row.num_gpus} GPUs: parallelism is not part of a plan yet")
    if row.framework not in _PLAIN:
        known = next((why for part, why in _OTHERS.items() if part in row.framework), "")
        why = known or f"what it changes is not known; what is: {', '.join(_PLAIN)}"
        raise InexpressibleError(f"framework {row.framework!r}: {why}")
    if row.method not in ("full", "lora") or row.optimizer != "adamw":
        pair = f"method {row.method!r} with optimizer {row.optimizer!r}"
        raise InexpressibleError(f"{pair} cannot be read: only full and LoRA training with AdamW can")
    precision = _PRECISIONS.get((row.base_dtype, row.autocast))
    attention = _ATTENTION.get(row.attention)
    if precision is None:
        raise InexpressibleError(f"{row.base_dtype} under autocast {row.autocast} is not a precision of a plan")
    if attention is None:
        raise InexpressibleError(f"attention {row.attention!r} is not known; what is: {', '.join(_ATTENTION)}")
    assumptions: list[str] = []
    method: dict[str, Any] = {"kind": row.method}
    if row.method == "lora":
        if row.target_modules is None:
            assumptions.append("LoRA on q, k, v and o, as the source's scripts have it")
        method |= {"rank": row.rank, "target_modules": row.target_modules or _QKVO}
    fields: dict[str, Any] = {
        "model": _model(row, folder, assumptions),
        "method": method,
        "precision": precision[0],
        "master_weights": precision[1],
        "quantization": "nf4-double" if row.quantization == "nf4" and row.double_quant else row.quantization or "none",
        "device": _card(row.gpu),
    }
    step: dict[str, Any] = {
        "batch_size": row.batch,
        "seq_len": row.seq,
        "checkpointing": row.checkpointing,
        "attention": attention,
    }
    source = next((settings for start, settings in _SOURCES.items() if row.id.startswith(start)), None)
    if source is not None:
        source(row, fields, step, assumptions)
    else:
        assumptions.append("the training loop is taken to be transformers' Trainer's")
    try:
        return TrainingPlan.model_validate({**fields, "step": step}), assumptions
    except ValidationError as error:
        raise UserError(*problems_of(error, TrainingPlan, lambda key: ("plan", ".".join(key)))) from None


def _a6000(row: PublishedRow, fields: dict[str, Any], step: dict[str, Any], assumptions: list[str]) -> None:
    """vramcalc's loop: gradients zeroed and kept, no input gradients; transformers 4.57 makes SDPA a mask tensor."""
    step |= {"keep_gradients": True, "input_gradients": False, "keep_outputs": True}
    if step["attention"] != "eager":
        step["padding"] = True
        assumptions.append("transformers 4.57 makes a mask tensor though none is given, which takes flash away")


def _t4(row: PublishedRow, fields: dict[str, Any], step: dict[str, Any], assumptions: list[str]) -> None:
    """fitcheck's loop: the output object lives until the next replaces it; input gradients throughout."""
    step |= {"keep_outputs": True, "keep_outputs_until": "update", "input_gradients": True}


def _a100(row: PublishedRow, fields: dict[str, Any], step: dict[str, Any], assumptions: list[str]) -> None:
    """The Trainer of transformers 4.48; QLoRA with the casts that trl makes."""
    step["loss"] = {"kind": "cross-entropy", "shifts": "logits"}
    assumptions.append("transformers 4.48 copies the fp32 logits without the last token (its ForCausalLMLoss)")
    step["use_reentrant"] = True
    assumptions.append("checkpointing with use_reentrant, the default of transformers 4.48")
    if row.method == "lora":
        fields["method"]["dropout"] = 0.1
    if row.quantization == "nf4":
        fields["quantization"] = "nf4-double"
        assumptions.append("double quantisation, as fms-acceleration's framework_plugin_bnb.py has it")
        if row.framework == "accelerated-peft-bnb":
            fields["kbit_preparation"] = "none"
            assumptions.append("norms, head and embeddings in bf16, as framework_plugin_bnb.py leaves them")
        else:
            fields["kbit_preparation"] = "norms"
            assumptions.append("norms in fp32, the head in bf16, as trl's peft_module_casting_to_bf16 leaves them")


_SOURCES = {"a6000-": _a6000, "t4-": _t4, "a100-": _a100}


def _card(name: str) -> str:
    """The bundled card of the name that a source gives it."""
    try:
        return find_gpu(name).id
    except UserError as error:
        raise InexpressibleError(error.problems[0].message) from None


def _model(row: PublishedRow, folder: Path, assumptions: list[str]) -> str:
    """A bundled model's name, or the path of a config.json made of the row's `arch`: all are of LLaMA's shape."""
    arch = row.arch
    if arch is None:
        model = bundled_model(row.model)
        if model is None and (model := bundled_model(row.model.rsplit("/", 1)[-1])) is not None:
            assumptions.append(f"{row.model} is taken to have the shape of {model.name}, as its name says")
        if model is None:
            raise InexpressibleError(f"no architecture is given, and no bundled model is called {row.model!r}")
        return model.id
    try:
        config = {
            "model_type": "llama",
            "hidden_size": arch["hidden_size"],
            "intermediate_size": arch["intermediate_size"],
            "num_hidden_layers": arch.get("num_layers") or arch["num_hidden_layers"],
            "num_attention_heads": arch.get("num_heads") or arch["num_attention_heads"],
            "num_key_value_heads": arch["num_kv_heads"],
            "head_dim": arch["head_dim"],
            "vocab_size": arch["vocab_size"],
            "tie_word_embeddings": arch["tie_word_embeddings"],
            "attention_bias": bool(arch.get("attention_bias", False)),
        }
    except KeyError as error:
        raise InexpressibleError(f"its architecture has no {error}") from None
    text = json.dumps(config)
    name = "".join(c if c.isalnum() else "-" for c in row.model[-60:])
    path = folder / f"{crc32(text.encode()):08x}" / name / "config.json"  # messages call the model as its directory
    write_text(path, text)
    return str(path)


def short_source(row: PublishedRow) -> str:
    """The project that measured the row."""
    return row.source.split(" sdist")[0].split(" scripts")[0]


def published_files() -> list[Path]:
    """The files of measurements that ship with memplanner."""
    return sorted((profiles_dir() / "published").glob("*.json"))


def published_rows(row: PublishedRow, estimate: Estimate) -> list[Row]:
    """Compare all figures that the row has and an estimate knows."""
    peaks = {phase.name: phase.peak_bytes for phase in estimate.phases}
    persistent = estimate.persistent
    measured = row.measured
    weights = measured.weights
    if weights is None and measured.weight_breakdown is not None:
        weights = sum(measured.weight_breakdown.values())
    figures = {
        "allocated": (estimate.allocated_bytes, measured.allocated_peak),
        "forward": (max(peaks["forward"], peaks["loss"]), measured.forward_peak),
        "backward": (peaks["backward"], measured.backward_peak),
        "update": (peaks["update"], measured.optimizer_peak),
        "steady": (estimate.phases[-1].end_bytes, measured.steady),
        "parameters": (persistent["parameters"] + persistent["adapters"], weights),
        "gradients": (persistent["gradients"], measured.gradient),
        "optimizer state": (persistent["optimizer_state"], measured.optimizer_state),
        "reserved": (estimate.reserved_bytes, measured.reserved_peak),
        "device": (estimate.device_bytes, measured.process),
    }
    peer = row.peer_predicted
    peer_bytes = {} if peer is None else {"allocated": peer.allocated_peak, "device": peer.process}
    return [
        Row(
            id=row.id,
            source=short_source(row),
            in_sample=row.in_sample,
            gpu=row.gpu,
            method=f"{row.method} {row.quantization}" if row.quantization else row.method,
            metric=metric,
            predicted_bytes=predicted,
            measured_bytes=bytes_measured,
            peer="" if peer is None or peer_bytes.get(metric) is None else peer.tool,
            peer_bytes=peer_bytes.get(metric),
        )
        for metric, (predicted, bytes_measured) in figures.items()
        if bytes_measured is not None
    ]
