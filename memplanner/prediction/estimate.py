"""predict(plan): how much memory a training step needs, when and why, and whether the device has it."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Final

from memplanner.allocator import DeviceFullError
from memplanner.allocator.making import MADE_LATE
from memplanner.allocator.simulation import AllocatorSimulation, Footprint
from memplanner.catalogue import GpuProfile, ModelProfile, capability_of, find_gpu, find_model, is_bundled
from memplanner.components.architectures.family import ConfigReader, Family
from memplanner.components.architectures.registry import read_config
from memplanner.components.architectures.saved import saved_format
from memplanner.components.architectures.tasks import Task
from memplanner.errors import Problem, UserError
from memplanner.frozen import Frozen
from memplanner.notes import (
    AssumedContext,
    ContextAboveLimit,
    MadeWhole,
    Note,
    RecordedForward,
    SequenceAboveModel,
    TakenByName,
    Traced,
    TypicalBatch,
)
from memplanner.plan.training_plan import SizeDevice, TrainingPlan
from memplanner.prediction.capability import refuse_beyond, remarks_on
from memplanner.prediction.margin import Margin, margin_of
from memplanner.prediction.recorded import answer_of, read_recorded_config
from memplanner.prediction.timeline import Timeline
from memplanner.prediction.traced import traced
from memplanner.prediction.verdict import device_total, limit_of, verdict_of
from memplanner.program.liveness import Liveness, Moment, PhaseBytes
from memplanner.program.program import PersistentTensor, StepProgram
from memplanner.program.shapes import UINT8, Shape
from memplanner.step.assemble import assemble
from memplanner.step.run import run
from memplanner.timeline import Category, Phase, PhasePeak, TensorRow, Verdict
from memplanner.units import parse_size

RELEASE: Final = TrainingPlan.model_fields["torch"].get_default()
"""PyTorch's, by which all is modelled but the kernels that a plan's own release decides."""
IMPLEMENTATION = f"transformers 5 + peft 0.21 eager, PyTorch {RELEASE} autograd and caching allocator"
"""The code that is modelled; other code may need another amount for the same plan."""

DEFAULT_WORKSPACE_BYTES = 8_519_680
"""cuBLAS workspace of a device given by its size alone: PyTorch's default before Hopper (CublasHandlePool.cpp)."""

ASSUMED_CONTEXT_BYTES = 744_685_568
"""Context of a device given by its size alone: the largest of the bundled NVIDIA cards', lest a plan be said to fit
that does not.
"""

_PERSISTENT: tuple[Category, ...] = ("parameters", "adapters", "gradients", "optimizer_state", "projectors")


class Estimate(Frozen):
    """The answer to a plan. Peaks are maxima over time; `rows` and `at_peak` are what is alive at that moment.

    "Live" bytes are those of tensors, each rounded up to 512 bytes. "Allocated" ones are those of the allocator's
    blocks, which are larger than their tensors by what is not worth splitting off; they cost a simulation.
    """

    plan: TrainingPlan
    gpu: GpuProfile | None
    model: ModelProfile
    live_phases: tuple[PhasePeak, ...]
    """Live bytes in the order of a step; "refresh" only where a subspace is recomputed."""
    program: StepProgram
    simulation: AllocatorSimulation
    implementation: str = IMPLEMENTATION
    step_notes: tuple[Note, ...] = ()
    """What is to be said of the step, on whatever device."""
    peak_moment: Moment | None = None
    liveness: Liveness

    @cached_property
    def _live_peak(self) -> PhasePeak:
        return max(self.live_phases, key=lambda p: p.peak_bytes)

    @property
    def peak_phase(self) -> Phase:
        """The phase in which most is alive; the earliest of equals."""
        return self._live_peak.name

    @property
    def live_bytes(self) -> int:
        """The most bytes of live tensors at any moment of a step."""
        return self._live_peak.peak_bytes

    @cached_property
    def phases(self) -> tuple[PhasePeak, ...]:
        """Allocated bytes in the order of a step, as torch.cuda.max_memory_allocated counts them."""
        refreshing, skip = self._footprint, self.program.refresh_only
        plain = self._replayed(skip=skip) if skip else refreshing
        updating: Phase = "backward" if self.plan.step.per_layer_updates else "update"
        persistent = self.program.persistent
        load_peak, load_end = plain.loaded
        unsplit = load_end - sum(size for c, size in persistent.by_category.items() if c not in MADE_LATE)
        found: list[PhasePeak] = []
        for live in self.live_phases:
            held = refreshing.phases.get(updating) if live.name == "refresh" else plain.phases.get(live.name)
            if held is None or live.name == "steady":  # nothing is allocated in it
                peak, end = live.peak_bytes + unsplit, live.end_bytes + unsplit
                if live.name == "load" and load_peak > load_end:  # while a quantised base was read
                    peak = max(peak, load_peak)
            else:
                peak, end = held
                unsplit = end - live.end_bytes
            found.append(PhasePeak(name=live.name, peak_bytes=peak, end_bytes=end))
        return tuple(found)

    @cached_property
    def allocated_bytes(self) -> int:
        """torch.cuda.max_memory_allocated over a step."""
        return max(phase.peak_bytes for phase in self.phases)

    @property
    def unsplit_bytes(self) -> int:
        """What the blocks in use at the peak are larger than the live tensors, since no block of 1 MiB or less is split
        off a large one. None with expandable segments.
        """
        return self.allocated_bytes - self.live_bytes

    @cached_property
    def reserved_bytes(self) -> int:
        """torch.cuda.max_memory_reserved: the segments that the caching allocator holds. Where the device has no room
        for all of them, those that remain after it has returned unused ones, if the step fits into these.
        """
        return self.wanted_bytes if self._squeezed_bytes is None else self._squeezed_bytes

    @property
    def is_simulated(self) -> bool:
        """Whether the allocator has been simulated; until then `reserved_bytes` and `allocated_bytes` cost it."""
        return "reserved_bytes" in self.__dict__ and "phases" in self.__dict__

    @property
    def is_squeezed(self) -> bool:
        """Whether the step fits only because the allocator, out of room, returns unused segments and asks again. That
        takes time, and whatever else asks for memory in between ends the run.
        """
        return self._squeezed_bytes is not None and self.margin_bytes >= 0

    def _replayed(self, *, limit: int | None = None, skip: frozenset[int] = frozenset()) -> Footprint:
        chosen = self.plan.allocator
        split = None if chosen.max_split_size is None else parse_size(chosen.max_split_size)
        return self.simulation.footprint(
            self.program, skip=skip, expandable_segments=chosen.expandable_segments, max_split_size=split, limit=limit
        )

    @cached_property
    def _footprint(self) -> Footprint:
        return self._replayed()

    @property
    def wanted_bytes(self) -> int:
        """What the step would reserve on a device that has room for every segment it asks for."""
        return self._footprint.reserved

    @cached_property
    def _squeezed_bytes(self) -> int | None:
        """Segments on this device, where it has less room than that and the step fits nevertheless; else None."""
        room = self.total_bytes - self.context_bytes
        if not self.live_bytes <= room < self.wanted_bytes:
            return None
        try:
            return self._replayed(limit=room).reserved
        except DeviceFullError:
            return None

    @property
    def fragmentation_bytes(self) -> int:
        """What the allocator reserves above the allocated peak."""
        return self.reserved_bytes - self.allocated_bytes

    @cached_property
    def expandable_saving_bytes(self) -> int:
        """What expandable_segments:True would save; 0, without a simulation, where it could save less than 1%."""
        if self.plan.allocator.expandable_segments or self.fragmentation_bytes < 0.01 * self.reserved_bytes:
            return 0
        return max(0, self.reserved_bytes - self.simulation.footprint(self.program, expandable_segments=True).reserved)

    @cached_property
    def context_bytes(self) -> int:
        """Memory outside the allocator: the CUDA context and loaded kernels. As the plan states it, or else the card's;
        of a device given by its size, an assumption.
        """
        if self.plan.device.context is not None:
            return parse_size(self.plan.device.context)
        return ASSUMED_CONTEXT_BYTES if self.gpu is None else self.gpu.context.bytes

    @property
    def is_context_assumed(self) -> bool:
        """Whether neither the plan nor a card's profile says what the context is."""
        return self.gpu is None and self.plan.device.context is None

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        """What is to be said beside the figures: of the model and the device first, then of the step. Of a model whose
        shapes are another's it is not known how long its sequences may be.
        """
        context = self.context_bytes
        assumed = [AssumedContext(context_bytes=context)] if self.is_context_assumed else []
        above = [ContextAboveLimit(context_bytes=context)] if context > self.limit_bytes else []
        step_notes = self.step_notes
        if self.model.asked:
            step_notes = tuple(note for note in step_notes if not isinstance(note, SequenceAboveModel))
        return (*_of_model(self.model), *remarks_on(self.plan, self.gpu), *assumed, *above, *step_notes)

    @cached_property
    def device_bytes(self) -> int:
        """What nvidia-smi shows for the process: reserved plus context."""
        return self.reserved_bytes + self.context_bytes

    @cached_property
    def total_bytes(self) -> int:
        """The memory that the device gives to a process."""
        return device_total(self.plan, self.gpu)

    @cached_property
    def limit_bytes(self) -> int:
        """The budget, or all of the device, less the headroom."""
        return limit_of(self.plan, self.total_bytes)

    @property
    def margin_bytes(self) -> int:
        """What is left under the limit; negative when it does not fit."""
        return self.limit_bytes - self.device_bytes

    @property
    def tensor_room_bytes(self) -> int:
        """What the limit leaves for live tensors, after the context and what the allocator holds besides them."""
        return self.limit_bytes - (self.device_bytes - self.live_bytes)

    @property
    def error_margin_bytes(self) -> int:
        """How far the estimate may be off."""
        return round(self.device_bytes * self.margin.share)

    @property
    def margin(self) -> Margin:
        """How far the device bytes have been off for this kind of plan."""
        return margin_of(
            self.plan, is_written=not any(isinstance(n, Traced | RecordedForward) for n in self.step_notes)
        )

    @property
    def is_hopeless(self) -> bool:
        """Whether tensors and context alone are above the limit, so that the plan does not fit whatever the allocator
        does. Its simulation, which takes most of a prediction's time, can then be left out.
        """
        return self.live_bytes + self.context_bytes > self.limit_bytes

    @property
    def least_device_bytes(self) -> int:
        """The device bytes, or a lower bound where the plan is hopeless."""
        return self.live_bytes + self.context_bytes if self.is_hopeless else self.device_bytes

    @property
    def verdict(self) -> Verdict:
        """fits, tight (within the error margin below the limit, or squeezed) or does-not-fit."""
        if self.is_hopeless:
            return "does-not-fit"
        return "tight" if self.is_squeezed else verdict_of(self.margin_bytes, self.error_margin_bytes)

    @property
    def is_traced(self) -> bool:
        """Whether the step was traced, since no family is written for the model."""
        return any(isinstance(note, Traced) for note in self.step_notes)

    @cached_property
    def timeline(self) -> Timeline:
        """The step's timeline, which answers what is alive when."""
        return Timeline(program=self.program, liveness=self.liveness)

    @cached_property
    def rows(self) -> tuple[TensorRow, ...]:
        """Tensors alive at the peak, largest first; their bytes sum to live_bytes."""
        return self.timeline.rows_at(self.peak_moment)

    @cached_property
    def at_peak(self) -> dict[Category, int]:
        """Bytes alive at the peak by category; they sum to live_bytes."""
        return self.timeline.by_category(self.peak_moment)

    @cached_property
    def persistent(self) -> dict[str, int]:
        """Exact tensor bytes by category at the end of a step; of gradients, at the end of its backward pass."""
        sums: Counter[str] = Counter()
        for tensor in self.program.persistent:
            sums[tensor.category] += tensor.num_bytes
        if not sums["gradients"] and not self.plan.step.per_layer_updates:
            sums["gradients"] = self.program.persistent.gradient_bytes
        return {c: sums[c] for c in _PERSISTENT}

    @property
    def workspace_bytes(self) -> int:
        """Bytes of cuBLAS's workspaces, which exist from the forward pass on, and on CUDA alone."""
        return self.program.persistent.by_category["workspaces"]

    def phase_peaks(self, *, on_cuda: bool = True) -> dict[Phase, int]:
        """The peak of every phase: as CUDA's allocator counts it, or the live tensors elsewhere, where there are no
        workspaces of cuBLAS.
        """
        if on_cuda:
            return {phase.name: phase.peak_bytes for phase in self.phases}
        absent = self.workspace_bytes
        return {phase.name: phase.peak_bytes - (absent if phase.name != "load" else 0) for phase in self.live_phases}

    @property
    def num_parameters(self) -> int:
        """All parameters, adapters included; a quantised weight counts its elements."""
        return self.program.persistent.num_parameters

    @property
    def num_trainable(self) -> int:
        """Parameters that learn."""
        return self.program.persistent.num_trainable


def _of_model(model: ModelProfile) -> Iterator[Note]:
    """What is to be said of where a model's shapes are from, and of the format that it is published in."""
    if model.asked:
        saved_in, multiplied_in = saved_format(ConfigReader(model.config, model.name))
        yield TakenByName(
            asked=model.asked, published=model.name, assumed_format=saved_in, assumed_products=multiplied_in
        )
    elif model.stored:
        yield MadeWhole(stored=model.stored)


def gpu_of(plan: TrainingPlan) -> GpuProfile | None:
    """The plan's card, None for a device given by its size; UserError where the card cannot run the plan."""
    gpu = None if isinstance(plan.device, SizeDevice) else find_gpu(plan.device.name)
    refuse_beyond(plan, gpu)
    return gpu


def workspace_of(gpu: GpuProfile | None) -> int:
    """Bytes of one cuBLAS workspace."""
    return DEFAULT_WORKSPACE_BYTES if gpu is None else gpu.cublas_workspace.bytes


def model_of(plan: TrainingPlan, root: Path) -> tuple[ModelProfile, Family, object]:
    """The model's profile, family and settings; UserError where it has fewer positions than the plan asks for."""
    profile, family, config = _model(plan, root)
    room = family.longest_sequence(config)
    if room is not None and plan.step.seq_len > room:
        message = f"{plan.step.seq_len} is above the {room} positions of {plan.model}"
        raise UserError(Problem(where="plan", key="step.seq_len", message=message))
    return profile, family, config


def profile_of(plan: TrainingPlan, root: Path) -> ModelProfile:
    """The model's profile; a user's file is read again only when it has changed."""
    return _read_profile(plan.model, root, stamp_of(plan.model, root))


@lru_cache(maxsize=256)
def _read_profile(name: str, root: Path, changed: tuple[int, int]) -> ModelProfile:
    return find_model(name, root)


def _model(plan: TrainingPlan, root: Path) -> tuple[ModelProfile, Family, object]:
    """The model's profile, family and settings; a user's file is read again only when it has changed."""
    attention = plan.step.attention
    return _read_model(plan.model, root, stamp_of(plan.model, root), plan.task, plan.num_labels, attention)


def stamp_of(name: str, root: Path) -> tuple[int, int]:
    """A value that changes when the user's file does; zeros for a bundled model."""
    if is_bundled(name):
        return 0, 0
    try:
        path = root / name
        stat = (path / "config.json" if path.is_dir() else path).stat()
        return stat.st_mtime_ns, stat.st_size
    except (OSError, ValueError):
        return 0, 0


@lru_cache(maxsize=256)
def _read_model(
    name: str, root: Path, changed: tuple[int, int], task: Task | None, num_labels: int | None, attention: str
) -> tuple[ModelProfile, Family, object]:
    profile = find_model(name, root)
    if answer_of(profile.config, task) == "recorded":
        return profile, *read_recorded_config(profile.config, profile.name, attention=attention)
    family, config = read_config(profile.config, profile.name, task=task, num_labels=num_labels)
    return profile, family, config.replaced(is_format_assumed=bool(profile.asked))


def is_computed(plan: TrainingPlan, model: ModelProfile) -> bool:
    """Whether the plan's step is computed, by a family or a recorded program, and not traced."""
    return answer_of(model.config, plan.task, plan.method) != "traced"


_SIMULATION = AllocatorSimulation()
"""The simulation of predictions that are given none of their own."""


def predict(
    plan: TrainingPlan, *, root: Path = Path(), collapse: bool = True, simulation: AllocatorSimulation = _SIMULATION
) -> Estimate:
    """The memory of one training step of the plan.

    root: directory that a relative model path starts from. collapse: whether to write equal blocks once. simulation:
    remembers what the allocator did. UserError when the model or the card is unknown or cannot be modelled, or the card
    cannot run the plan.
    """
    gpu = gpu_of(plan)
    model = profile_of(plan, root)
    write: Callable[[int], tuple[StepProgram, tuple[Note, ...]]]
    if is_computed(plan, model):
        model, family, config = model_of(plan, root)
        step = assemble(plan, family, config, compute_capability=capability_of(gpu))
        write = partial(run, step, plan.step.batch_size, collapse=collapse)
    else:
        write = partial(traced, plan, model, root, gpu)

    def at(seq_len: int) -> Estimate:
        program, notes = write(seq_len)
        return estimate_of(plan, model, gpu, program, notes, simulation)

    longest = at(plan.step.seq_len)
    typical_seq_len = plan.step.typical_seq_len
    if typical_seq_len is None:
        return longest
    note = TypicalBatch(seq_len=typical_seq_len, allocated_bytes=at(typical_seq_len).allocated_bytes)
    return longest.replaced(step_notes=(*longest.step_notes, note))


def longest_sequence(plan: TrainingPlan, *, root: Path = Path()) -> int | None:
    """The number of tokens that the plan's model has positions for; None where there is no limit, or none is known."""
    if not is_computed(plan, profile_of(plan, root)):
        return None
    _, family, config = _model(plan, root)
    return family.longest_sequence(config)


def widest_rank(plan: TrainingPlan, *, root: Path = Path()) -> int:
    """The rank above which no weight of the model's blocks can gain: the hidden size, which is the smaller side of the
    largest weight.
    """
    profile = profile_of(plan, root)
    if not is_computed(plan, profile):
        fields = profile.config
        text = fields.get("text_config")
        size = (text if isinstance(text, dict) else fields).get("hidden_size")
        return size if isinstance(size, int) else 4096
    _, _, config = _model(plan, root)
    return int(config.hidden)  # type: ignore[attr-defined]  # every family's config has it


def estimate_of(
    plan: TrainingPlan,
    model: ModelProfile,
    gpu: GpuProfile | None,
    program: StepProgram,
    notes: tuple[Note, ...],
    simulation: AllocatorSimulation = _SIMULATION,
) -> Estimate:
    """The estimate of a step program, with the cuBLAS workspaces of the card."""
    workspace = PersistentTensor("cuBLAS workspace", "workspaces", Shape(bytes=workspace_of(gpu)), UINT8, 2)
    program = program.with_workspaces(workspace if workspace.num_bytes else None)
    liveness = Liveness(program, skip=program.refresh_only)
    phases = _phases(plan, program, liveness)
    moments: dict[Phase, Moment | None] = {phase.name: phase.moment for phase in liveness.phases}
    moments |= {"load": None}
    if program.refresh_only:
        refreshing = Liveness(program)
        updating_phase = "backward" if plan.step.per_layer_updates else "update"
        refresh = _over(program, next(phase for phase in refreshing.phases if phase.name == updating_phase), "refresh")
        if refresh.peak_bytes > max(phase.peak_bytes for phase in phases):
            liveness = refreshing
            moments["refresh"] = next(phase.moment for phase in refreshing.phases if phase.name == updating_phase)
        phases.insert(-1, refresh)
    peak = max(phases, key=lambda phase: phase.peak_bytes)
    return Estimate(
        plan=plan,
        gpu=gpu,
        model=model,
        live_phases=tuple(phases),
        program=program,
        simulation=simulation,
        implementation=IMPLEMENTATION + (f"; SDPA of PyTorch {plan.torch}" if plan.torch != RELEASE else ""),
        step_notes=tuple(dict.fromkeys(notes)),
        peak_moment=moments.get(peak.name),
        liveness=liveness,
    )


def _phases(plan: TrainingPlan, program: StepProgram, liveness: Liveness) -> list[PhasePeak]:
    """The phases of a step without a refresh, after the loading of the weights."""
    persistent_bytes = program.persistent.by_category
    weights = persistent_bytes["parameters"] + persistent_bytes["adapters"]
    phases = [PhasePeak(name="load", peak_bytes=weights, end_bytes=weights)]
    released = persistent_bytes["gradients"] if plan.step.grad_accumulation > 1 and not plan.step.keep_gradients else 0
    for phase in liveness.phases:
        if phase.name == "steady":
            end = program.persistent.total + phase.end - released
            phases.append(PhasePeak(name="steady", peak_bytes=end, end_bytes=end))
        else:
            phases.append(_over(program, phase, phase.name))
    return phases


def _over(program: StepProgram, phase: PhaseBytes, name: Phase) -> PhasePeak:
    """A phase's bytes, including those that are there throughout the step."""
    base = program.persistent.total
    return PhasePeak(name=name, peak_bytes=base + phase.peak, end_bytes=base + phase.end)
