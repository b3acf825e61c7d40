"""predict(plan): what a training step needs, when and why, and whether the device has it."""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

from memplanner.allocator.reference import DeviceFullError
from memplanner.allocator.reserved import reserved_peak
from memplanner.catalogue import GpuProfile, ModelProfile, find_gpu, find_model, is_bundled
from memplanner.components.architectures.registry import Family, read_config
from memplanner.components.context import AUXILIARY
from memplanner.errors import Problem, UserError
from memplanner.plan.training_plan import SizeDevice, TrainingPlan
from memplanner.prediction.margin import Margin, margin_of
from memplanner.program.liveness import Moment, Replay
from memplanner.program.shapes import Shape
from memplanner.step.walk import Walk, walk
from memplanner.tape.engine import Tape
from memplanner.timeline import CATEGORIES, Category, Phase, PhasePeak, TensorRow, Verdict
from memplanner.units import format_bytes, parse_share, parse_size

IMPLEMENTATION = "transformers 5 + peft 0.21 eager, PyTorch 2.13 autograd and caching allocator"
"""What is modelled; other code may need another amount for the same plan."""

DEFAULT_WORKSPACE_BYTES = 8_519_680
"""cuBLAS workspace of a device given by its size alone: PyTorch's default before Hopper (CublasHandlePool.cpp)."""

_PERSISTENT: tuple[Category, ...] = ("parameters", "adapters", "gradients", "optimizer_state", "projectors")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The answer to a plan. Peaks are maxima over time; `rows` and `at_peak` are what is alive at that moment."""

    plan: TrainingPlan
    gpu: GpuProfile | None
    model: ModelProfile
    phases: tuple[PhasePeak, ...]
    """In the order of a step; "refresh" only where a subspace is recomputed."""
    walked: Walk = field(repr=False)
    implementation: str = IMPLEMENTATION
    notes: tuple[str, ...] = ()
    peak_moment: Moment | None = field(repr=False, default=None)
    replay: Replay = field(repr=False)

    @cached_property
    def peak(self) -> PhasePeak:
        """The phase with the highest peak; the earliest of equals."""
        return max(self.phases, key=lambda p: p.peak_bytes)

    @property
    def peak_phase(self) -> Phase:
        """Where the peak lies."""
        return self.peak.name

    @property
    def allocated_bytes(self) -> int:
        """torch.cuda.max_memory_allocated over a step."""
        return self.peak.peak_bytes

    @cached_property
    def reserved_bytes(self) -> int:
        """torch.cuda.max_memory_reserved: the segments that the caching allocator holds for it. Where the device has
        no room for all of them, what is left after it returns unused ones, if the step can be done with that.
        """
        return self._wanted_bytes if self._squeezed_bytes is None else self._squeezed_bytes

    @property
    def is_replayed(self) -> bool:
        """Whether reserved and device have been asked for before: the allocator's replay takes the longest."""
        return "reserved_bytes" in self.__dict__

    @property
    def returns_segments(self) -> bool:
        """Whether the step fits only because the allocator returns unused segments to the device."""
        return self._squeezed_bytes is not None

    def _reserved(self, limit: int | None = None) -> int:
        chosen = self.plan.allocator
        split = None if chosen.max_split_size is None else parse_size(chosen.max_split_size)
        return reserved_peak(
            self.walked, expandable_segments=chosen.expandable_segments, max_split_size=split, limit=limit
        )

    @cached_property
    def _wanted_bytes(self) -> int:
        """Segments on a device that has room for all that are asked for."""
        return self._reserved()

    @cached_property
    def _squeezed_bytes(self) -> int | None:
        """Segments on this device, where it has less than is wanted and the step can be done nevertheless."""
        room = self.total_bytes - self.context_bytes
        if not self.allocated_bytes <= room < self._wanted_bytes:
            return None
        try:
            return self._reserved(room)
        except DeviceFullError:
            return None

    @property
    def fragmentation_bytes(self) -> int:
        """What the allocator holds beside the allocated peak."""
        return self.reserved_bytes - self.allocated_bytes

    @cached_property
    def expandable_saving_bytes(self) -> int:
        """What expandable_segments:True would take off; not looked for where less than 1% could be gained."""
        if self.plan.allocator.expandable_segments or self.fragmentation_bytes < 0.01 * self.reserved_bytes:
            return 0
        return max(0, self.reserved_bytes - reserved_peak(self.walked, expandable_segments=True))

    @cached_property
    def context_bytes(self) -> int:
        """Outside the allocator: the CUDA context and loaded kernels; 0 for a device given by its size."""
        return 0 if self.gpu is None else self.gpu.context.bytes

    @cached_property
    def device_bytes(self) -> int:
        """What nvidia-smi shows for the process: reserved plus context."""
        return self.reserved_bytes + self.context_bytes

    @cached_property
    def total_bytes(self) -> int:
        """What the device gives a process."""
        device = self.plan.device
        if isinstance(device, SizeDevice):
            return parse_size(device.memory)
        assert self.gpu is not None
        return self.gpu.total.bytes

    @cached_property
    def limit_bytes(self) -> int:
        """The budget, or all of the device, less the headroom."""
        total = self.total_bytes
        limit = total - _of(self.plan.headroom, total)
        return limit if self.plan.budget is None else min(limit, _of(self.plan.budget, total))

    @property
    def margin_bytes(self) -> int:
        """What is left under the limit; negative when it does not fit."""
        return self.limit_bytes - self.device_bytes

    @property
    def tensor_room_bytes(self) -> int:
        """What the limit leaves for live tensors: less the context and what the allocator holds beside them."""
        return self.limit_bytes - (self.device_bytes - self.allocated_bytes)

    @property
    def error_margin_bytes(self) -> int:
        """How far the estimate may be off."""
        return round(self.device_bytes * self.margin.share)

    @property
    def margin(self) -> Margin:
        """How far device has been off for this kind of plan."""
        return margin_of(self.plan)

    @property
    def is_hopeless(self) -> bool:
        """Whether tensors and context alone are above the limit: whatever the allocator, whose replay takes most of a
        prediction's time, makes of it.
        """
        return self.allocated_bytes + self.context_bytes > self.limit_bytes

    @property
    def least_device_bytes(self) -> int:
        """Device bytes, or where it is hopeless what they are at least."""
        return self.allocated_bytes + self.context_bytes if self.is_hopeless else self.device_bytes

    @property
    def verdict(self) -> Verdict:
        """fits, tight (within the error margin below the limit) or does-not-fit."""
        if self.is_hopeless or self.margin_bytes < 0:
            return "does-not-fit"
        return "tight" if self.margin_bytes < self.error_margin_bytes else "fits"

    @cached_property
    def rows(self) -> tuple[TensorRow, ...]:
        """Tensors alive at the peak, largest first; their bytes sum to allocated_bytes."""
        return self.rows_at(self._moment)

    @cached_property
    def at_peak(self) -> dict[Category, int]:
        """Bytes alive at the peak by category; they sum to allocated_bytes."""
        return self.by_category(self._moment)

    @property
    def _moment(self) -> Moment | None:
        return None if self.peak_phase == "load" else self.peak_moment

    @cached_property
    def persistent(self) -> dict[str, int]:
        """Exact tensor bytes by category of what a step's end (gradients: its backward's end) leaves."""
        sums: Counter[str] = Counter()
        for held in self.walked.held:
            sums[held.category] += held.num_bytes
        if not sums["gradients"] and not self.plan.step.per_layer_updates:
            sums["gradients"] = sum(p.num_bytes * p.count for p in self.walked.tape.params.values() if p.trainable)
        return {c: sums[c] for c in _PERSISTENT}

    @cached_property
    def workspace_bytes(self) -> int:
        """cuBLAS's workspaces, which are there from the forward pass on, and on CUDA alone."""
        return self.walked.held.by_category["workspaces"]

    def phase_peaks(self, *, workspaces: bool = True) -> dict[Phase, int]:
        """The peak of every phase; workspaces=False: as a backend other than CUDA has it, without cuBLAS's."""
        absent = 0 if workspaces else self.workspace_bytes
        return {phase.name: phase.peak_bytes - (absent if phase.name != "load" else 0) for phase in self.phases}

    @cached_property
    def num_parameters(self) -> int:
        """All parameters, adapters included; a quantised weight counts its elements."""
        return sum(
            (p.tags if isinstance(p.tags, Shape) else p.shape).numel * p.count
            for p in self.walked.tape.params.values()
            if p.tags is not AUXILIARY
        )

    @cached_property
    def num_trainable(self) -> int:
        """Parameters that learn."""
        return _num_trainable(self.walked.tape)

    def timeline(self, columns: int | None = None) -> tuple[tuple[Phase, int, Moment | None], ...]:
        """The step in order: (phase, live bytes, when). The moment is None where nothing but the weights is there.

        columns: in at most so many stretches, each inside one phase, with the most that is alive in it. Without: at the
        beginning, the peak and the end of every piece of the log.
        """
        base, weights = self.walked.held.total, self.phases[0].peak_bytes
        if columns is not None:
            return self._stretches(columns, base, weights)
        points: list[tuple[Phase, int, Moment | None]] = [("load", weights, None)]
        for number, piece in enumerate(self.replay.pieces):
            end = Moment(number, piece.end - piece.start, piece.reps - 1)
            points.append((piece.phase, base + piece.live_before, Moment(number, 0, 0)))
            points.append((piece.phase, base + piece.peak, piece.peak_at))
            points.append((piece.phase, base + piece.live_after, end))
        return tuple(points)

    def _stretches(self, columns: int, base: int, weights: int) -> tuple[tuple[Phase, int, Moment | None], ...]:
        moments: dict[Phase, list[tuple[int, Moment]]] = {}
        for phase, moment, size in self.replay.course():
            moments.setdefault(phase, []).append((base + size, moment))
        least = max(min(9, columns // (1 + len(moments))), 1)  # room for a phase's name
        spare = max(columns - least * (1 + len(moments)), 0)
        total = sum(map(len, moments.values()))
        highest: list[tuple[Phase, int, Moment | None]] = [("load", weights, None)] * least
        for phase, inside in moments.items():
            stretches = least + spare * len(inside) // total
            for n in range(stretches):
                start = n * len(inside) // stretches
                part = inside[start : max((n + 1) * len(inside) // stretches, start + 1)]
                size, moment = max(part, key=lambda point: point[0])
                highest.append((phase, size, moment))
        return tuple(highest)

    def by_category(self, moment: Moment | None) -> dict[Category, int]:
        """Bytes alive at a moment of the timeline by category."""
        held = self.walked.held.by_category
        sums = Counter(held if moment is not None else {c: held[c] for c in ("parameters", "adapters")})
        tape = self.walked.tape
        for index, count in self.replay.alive(moment).items() if moment is not None else ():
            sums[tape.categories[index]] += tape.sizes[index] * count
        return {c: sums[c] for c in CATEGORIES}

    def rows_at(self, moment: Moment | None) -> tuple[TensorRow, ...]:
        """Tensors alive at a moment of the timeline, largest first; None: once the weights are loaded."""
        return tuple(sorted(self._rows_at(moment), key=lambda r: (-r.bytes, r.name)))

    def _rows_at(self, moment: Moment | None) -> list[TensorRow]:
        rows = [
            TensorRow(
                name=h.name,
                category=h.category,
                shape=h.shape.dims,
                dtype=h.dtype.name,
                count=h.count,
                bytes=h.block_bytes,
                born="load",
                dies="",
                why=_why(h.shape.why(h.dtype), h.shape.numel * h.dtype.size, h.block_bytes // h.count, h.count),
            )
            for h in self.walked.held
            if moment is not None or h.category in ("parameters", "adapters")
        ]
        if moment is None:
            return rows
        tape = self.walked.tape
        for index, count in self.replay.alive(moment).items():
            scope, name, shape, dtype = tape.described(index)
            size = tape.sizes[index]
            if size == 0:
                continue
            rows.append(
                TensorRow(
                    name=f"{scope} {name}".strip(),
                    category=tape.categories[index],
                    shape=shape.dims,
                    dtype=dtype.name,
                    count=count,
                    bytes=size * count,
                    born=self._phase_of(index),
                    dies=self._phase_of(~index),
                    why=_why(shape.why(dtype), shape.numel * dtype.size, size, count),
                )
            )
        return rows

    def _phase_of(self, entry: int) -> Phase:
        """The phase in which a log entry (a birth, or ~index a death) lies."""
        tape = self.walked.tape
        try:
            position = tape.log.index(entry)
        except ValueError:
            return "steady"
        return next(name for name, start in reversed(tape.phases) if start <= position)


def _why(formula: str, exact: int, block: int, count: int) -> str:
    total = f"{formula} = {exact:,} B"
    if block != exact:
        total += f", in blocks of 512 B: {block:,} B"
    return f"{count} × ({total}) = {block * count:,} B" if count > 1 else total


def _of(amount: str, total: int) -> int:
    return round(parse_share(amount) * total) if amount.strip().endswith("%") else parse_size(amount)


def gpu_of(plan: TrainingPlan) -> GpuProfile | None:
    """The plan's card; None for a device given by its size."""
    return None if isinstance(plan.device, SizeDevice) else find_gpu(plan.device.name)


def workspace_of(gpu: GpuProfile | None) -> int:
    """Bytes of one cuBLAS workspace."""
    return DEFAULT_WORKSPACE_BYTES if gpu is None else gpu.cublas_workspace.bytes


def capability_of(gpu: GpuProfile | None) -> float:
    """CUDA compute capability; AMD's cards have the flash kernel, so, it is assumed, has a device given by its size."""
    if gpu is None or gpu.vendor != "nvidia":
        return 8.0
    return float(gpu.compute_capability)


def model_of(plan: TrainingPlan, root: Path) -> tuple[ModelProfile, Family, object]:
    """The model's profile, family and settings; UserError where it has fewer positions than the plan asks for."""
    profile, family, config = _model(plan.model, root)
    room = family.longest_sequence(config)
    if room is not None and plan.step.seq_len > room:
        message = f"{plan.step.seq_len} is above the {room} positions of {plan.model}"
        raise UserError(Problem(where="plan", key="step.seq_len", message=message))
    return profile, family, config


def _model(name: str, root: Path) -> tuple[ModelProfile, Family, object]:
    """The same, read again only when the user's file has changed."""
    return _read_model(name, root, stamp_of(name, root))


def stamp_of(name: str, root: Path) -> tuple[int, int]:
    """Changes when the user's file does; zeros for a bundled model."""
    if is_bundled(name):
        return 0, 0
    try:
        path = root / name
        stat = (path / "config.json" if path.is_dir() else path).stat()
        return stat.st_mtime_ns, stat.st_size
    except (OSError, ValueError):
        return 0, 0


@lru_cache(maxsize=256)
def _read_model(name: str, root: Path, changed: tuple[int, int]) -> tuple[ModelProfile, Family, object]:
    profile = find_model(name, root)
    family, config = read_config(profile.config, profile.name)
    return profile, family, config


def predict(plan: TrainingPlan, *, root: Path = Path(), collapse: bool = True) -> Estimate:
    """The memory of one training step of the plan.

    root: directory that a relative model path starts from. collapse: walk equal blocks once. UserError when the model
    or the card is unknown or cannot be modelled.
    """
    model, family, config = model_of(plan, root)
    gpu = gpu_of(plan)

    def at(seq_len: int) -> Estimate:
        walked = walk(
            plan,
            family,
            config,
            seq_len=seq_len,
            compute_capability=capability_of(gpu),
            collapse=collapse,
        )
        return estimate_of(plan, model, gpu, walked)

    longest = at(plan.step.seq_len)
    typical = plan.step.typical_seq_len
    if typical is None:
        return longest
    note = (
        f"an ordinary batch, {typical} tokens long, allocates {format_bytes(at(typical).allocated_bytes)} at its peak"
    )
    return replace(longest, notes=(*longest.notes, f"{note}; the longest decides"))


def longest_sequence(plan: TrainingPlan, *, root: Path = Path()) -> int | None:
    """Tokens that the plan's model has positions for; None where it can be asked for any number."""
    _, family, config = _model(plan.model, root)
    return family.longest_sequence(config)


def widest_rank(plan: TrainingPlan, *, root: Path = Path()) -> int:
    """The rank beyond which no weight of the model's blocks has more to give: its hidden size, the smaller side of the
    largest of them.
    """
    _, _, config = _model(plan.model, root)
    return int(config.hidden)  # type: ignore[attr-defined]  # every family's config has it


@lru_cache(maxsize=8)
def _num_trainable(tape: Tape) -> int:
    return sum(p.shape.numel * p.count for p in tape.params.values() if p.trainable)


@lru_cache(maxsize=8)
def _replays(tape: Tape, refresh_only: frozenset[int]) -> tuple[Replay, Replay]:
    """The step as it mostly is, and with a subspace refresh."""
    replay = Replay(tape, refresh_only)
    return replay, Replay(tape, without=replay) if refresh_only else replay


def estimate_of(plan: TrainingPlan, model: ModelProfile, gpu: GpuProfile | None, walked: Walk) -> Estimate:
    """Read the walk's log into an estimate. Of cuBLAS's workspaces it has the card's."""
    walked = walked.with_workspace(workspace_of(gpu))
    base = walked.held.total
    replay, refreshing = _replays(walked.tape, frozenset(walked.refresh_only))
    held = walked.held.by_category
    weights = held["parameters"] + held["adapters"]
    phases = [PhasePeak(name="load", peak_bytes=weights, end_bytes=weights)]
    moments: dict[Phase, Moment] = {}
    released = 0
    if plan.step.grad_accumulation > 1 and not plan.step.keep_gradients:
        released = held["gradients"]
    for name, peak, end, moment in replay.phase_peaks():
        if name == "steady":
            if "update" not in moments:  # an update in place, or one inside backward, allocates nothing by itself
                phases.append(PhasePeak(name="update", peak_bytes=phases[-1].end_bytes, end_bytes=phases[-1].end_bytes))
            phases.append(PhasePeak(name=name, peak_bytes=base + end - released, end_bytes=base + end - released))
            continue
        phases.append(PhasePeak(name=name, peak_bytes=base + peak, end_bytes=base + end))
        moments[name] = moment
    best = max(phases, key=lambda p: p.peak_bytes).name
    used = replay
    if walked.refresh_only:
        where: Phase = "backward" if plan.step.per_layer_updates else "update"
        found = {name: (peak, end, moment) for name, peak, end, moment in refreshing.phase_peaks()}
        peak, end, moment = found[where]
        phases.insert(-1, PhasePeak(name="refresh", peak_bytes=base + peak, end_bytes=base + end))
        if base + peak > max(p.peak_bytes for p in phases if p.name != "refresh"):
            best, moments["refresh"], used = "refresh", moment, refreshing
    return Estimate(
        plan=plan,
        gpu=gpu,
        model=model,
        phases=tuple(phases),
        walked=walked,
        notes=tuple(dict.fromkeys(walked.notes)),
        peak_moment=moments.get(best),
        replay=used,
    )
