"""Steps of models that no family is written for: traced where PyTorch is installed, and kept for the next time.

Prediction needs neither torch nor the harness. The tracer is looked up by its name when such a model is asked for, and
what it gives is a step program, which is read as any other.
"""

import hashlib
import json
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NoReturn

from memplanner.catalogue import GpuProfile, ModelProfile, capability_of, find_model
from memplanner.components.architectures.family import ConfigReader
from memplanner.components.architectures.registry import FAMILIES
from memplanner.components.architectures.saved import saved_format
from memplanner.components.attention import same_kernels
from memplanner.components.methods.lora import PeftAdapter
from memplanner.errors import Problem, UserError, misspelling
from memplanner.files.cache import kept_path
from memplanner.files.parse import read_text
from memplanner.files.write import write_text
from memplanner.notes import Note, TextAlone, Traced
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction.recorded import why_traced
from memplanner.program import as_json
from memplanner.program.program import StepProgram
from memplanner.settings.errors import show
from memplanner.step.assemble import refuse_other_format

TRACER: Final = "memplanner.harness.recording"
LIBRARIES: Final = ("torch", "transformers", "peft", "bitsandbytes", "galore-torch", "memplanner")
"""What a trace depends on, beside the plan, the model and the card's kernels."""
_NO_TENSORS: Final = ("device", "allocator", "budget", "headroom")
"""Settings that no tensor of a step depends on."""
_PARTS: Final = ("vision_config", "audio_config")
"""Keys of config.json with the parts of a model that a batch of text does not run."""
_MOST_BYTES: Final = 64 << 20


def refuse_traced(plan: TrainingPlan, model: ModelProfile) -> NoReturn:
    """UserError that says what answers for a model that has to be traced."""
    why = why_traced(model.config, plan.task, plan.method)
    message = f"{why}, and its steps are traced one by one, in seconds each"
    hint = "`memplanner check`, `explain`, `compare` and `sweep` do that"
    raise UserError(Problem(where=plan.model, key="model_type", message=message, hint=hint))


def traced(
    plan: TrainingPlan, model: ModelProfile, root: Path, gpu: GpuProfile | None, seq_len: int
) -> tuple[StepProgram, tuple[Note, ...]]:
    """The plan's step at a sequence length, from the cache or traced now, and what is to be said of it.

    UserError where the tracer is not installed, or cannot run the plan.
    """
    _refuse_saved(plan, model)
    step = plan.step.model_copy(update={"seq_len": seq_len, "typical_seq_len": None})
    plan = plan.model_copy(update={"step": step})
    fields = plan.model_dump(mode="json", exclude=set(_NO_TENSORS))
    around = {
        "schema": as_json.SCHEMA,
        "plan": fields | {"model": ""},
        "config": model.config,
        "kernels": same_kernels(capability_of(gpu)),
        "versions": {name: _version(name) for name in LIBRARIES},
    }
    key = hashlib.sha256(json.dumps(around, sort_keys=True).encode()).hexdigest()
    program = _kept(key) or _traced_now(plan, root, key)
    note = Traced(
        model_type=str(model.config.get("model_type")),
        transformers=_version("transformers"),
        why=why_traced(model.config, plan.task, plan.method),
        takes_default_targets=isinstance(plan.method, PeftAdapter) and not plan.method.target_modules,
    )
    parts = tuple(key.removesuffix("_config") for key in _PARTS if isinstance(model.config.get(key), dict))
    if not parts:
        return program, (note,)
    checkpointed = plan.step.checkpoint_every > 0
    return program, (note, TextAlone(parts=parts, num_parameters=None, is_checkpointed=checkpointed))


def _refuse_saved(plan: TrainingPlan, model: ModelProfile) -> None:
    """UserError where weights were saved in a format that is not modelled, or is not the plan's."""
    fields = ConfigReader(model.config, model.name)
    saved_in, multiplied_in = saved_format(fields)
    if fields.problems:
        raise UserError(*fields.problems)
    if saved_in:
        refuse_other_format(plan, saved_in, multiplied_in, assumed=bool(model.asked))


@lru_cache(maxsize=64)
def _kept(key: str) -> StepProgram | None:
    """What the cache has. A file that cannot be read, or is no program, is as good as none."""
    path = kept_path("programs", f"{key}.json")
    if path is None:
        return None
    try:
        program = as_json.loads(read_text(path, most=_MOST_BYTES))
    except (UserError, ValueError):
        return None
    return program if isinstance(program, StepProgram) else None


def _traced_now(plan: TrainingPlan, root: Path, key: str) -> StepProgram:
    try:
        recording = import_module(TRACER)
        program: StepProgram = recording.record(plan, root)
    except ModuleNotFoundError as error:
        config = find_model(plan.model, root).config
        why = why_traced(config, plan.task, plan.method)
        message = f"{why}, and a trace needs {error.name}, which is not installed"
        model_type = config["model_type"]
        hint = f"{misspelling(model_type, FAMILIES)} pip install 'memplanner[live]' traces it in seconds".strip()
        key, message = "model_type", f"{show(model_type)}: {message}"
        raise UserError(Problem(where=plan.model, key=key, message=message, hint=hint)) from None
    path = kept_path("programs", f"{key}.json")
    if path is not None:
        try:
            write_text(path, as_json.dumps(program))
        except UserError:
            return program  # a cache that cannot be written to is none
        _kept.cache_clear()
    return program


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
