"""Reads a tape's log: the peak of every phase, and what is alive at any moment.

A `Run` in the log stands for `reps` equal blocks. Live bytes are affine in the repetition, so its highest moment lies
in its first or its last repetition: both are read off the one that was walked.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from memplanner.tape.engine import Run, Tape
from memplanner.timeline import Phase


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in the log: after entry `position` of piece `piece`, in repetition `rep` of its run."""

    piece: int
    position: int
    rep: int


@dataclass(slots=True)
class Piece:
    """A stretch of the log inside one phase, and inside one run or none. Bytes are relative to the step's base."""

    phase: Phase
    start: int
    end: int
    run: Run | None
    forward: bool
    live_before: int = 0
    live_after: int = 0
    peak: int = 0
    peak_at: Moment | None = None
    net: int = 0

    @property
    def reps(self) -> int:
        """Repetitions it stands for."""
        return 1 if self.run is None else self.run.reps


class Replay:
    """The log read once. skip: tensors left out (what only a subspace refresh makes). without: a reading of the same
    log that leaves out some more; what it has measured of pieces with none of those is taken from it.
    """

    def __init__(self, tape: Tape, skip: frozenset[int] = frozenset(), without: "Replay | None" = None) -> None:
        self.tape = tape
        self.skip = skip
        self.pieces = self._cut()
        self._measure(without)

    def _cut(self) -> list[Piece]:
        tape = self.tape
        inside: dict[int, tuple[Run | None, bool]] = {}
        bounds = {len(tape.log)}
        for run in tape.runs:
            inside[run.start] = (run, True)
            bounds.update((run.start, run.end))
            if run.back_start >= 0:
                inside[run.back_start] = (run, False)
                bounds.update((run.back_start, run.back_end))
        begins = {position: name for name, position in tape.phases}  # of phases at one place, the last is not empty
        bounds.update(begins)
        pieces: list[Piece] = []
        phase = tape.phases[0][0]
        for start, end in pairwise(sorted(bounds)):
            phase = begins.get(start, phase)
            pieces.append(Piece(phase, start, end, *inside.get(start, (None, True))))
        return pieces

    def _entries(self, piece: Piece) -> list[int]:
        entries = self.tape.log[piece.start : piece.end]
        if self.skip:
            return [i for i in entries if (i if i >= 0 else ~i) not in self.skip]
        return entries

    def _shared(self, piece: Piece, entries: list[int]) -> frozenset[int]:
        """Tensors of all repetitions together (rotary tables, say) that die in this run: once, in the last."""
        run = piece.run
        if run is None:
            return frozenset()
        log = self.tape.log
        own = {i for i in entries if i >= 0}
        own.update(i for i in log[run.start : run.end] if i >= 0)
        own.update((run.input, run.output, run.grad_input))
        return frozenset(~i for i in entries if i < 0 and ~i not in own)

    def _measure(self, without: "Replay | None") -> None:
        tape = self.tape
        sizes, reps = tape.sizes, tape.reps
        live = 0
        left_out = frozenset() if without is None else without.skip - self.skip
        events = left_out | {~i for i in left_out}
        for number, piece in enumerate(self.pieces):
            if without is not None and events.isdisjoint(tape.log[piece.start : piece.end]):
                same = without.pieces[number]
                above = live - same.live_before
                piece.live_before, piece.live_after = live, same.live_after + above
                piece.peak, piece.peak_at = same.peak + above, same.peak_at
                live = piece.live_after
                continue
            entries, run, n = self._entries(piece), piece.run, piece.reps
            if run is None:
                deltas = [sizes[i] * reps[i] if i >= 0 else -sizes[~i] * reps[~i] for i in entries]
            else:
                deltas = [sizes[i] if i >= 0 else -sizes[~i] for i in entries]
            prefix = list(accumulate(deltas, initial=0))
            top = max(prefix)
            piece.live_before = live
            piece.peak, piece.peak_at = live + top, Moment(number, prefix.index(top), 0)
            net = prefix[-1]
            if n > 1:
                assert run is not None
                shared = self._shared(piece, entries)
                if shared:
                    once = [0 if i < 0 and ~i in shared else d for i, d in zip(entries, deltas, strict=True)]
                    first = list(accumulate(once, initial=0))
                    piece.peak, piece.peak_at = live + max(first), Moment(number, first.index(max(first)), 0)
                    step = first[-1]
                else:
                    step = net
                # Where the walked block's input is held elsewhere, every other block still frees its own: forward, all
                # but the first; backward, all but the last.
                frees = run.input_held and run.input_kept is not piece.forward
                more = step - sizes[run.input] if frees else step
                last = live + (step + (n - 2) * more if piece.forward else (n - 1) * more)
                if last + top > piece.peak:
                    piece.peak, piece.peak_at = last + top, Moment(number, prefix.index(top), n - 1)
                live = last + net - (sizes[run.input] if frees and piece.forward else 0)
            else:
                live += net
            piece.live_after = live

    def phase_peaks(self) -> Iterator[tuple[Phase, int, int, Moment]]:
        """(phase, peak bytes, bytes at its end, moment of the peak), in order."""
        current: tuple[Phase, int, int, Moment] | None = None
        for piece in self.pieces:
            assert piece.peak_at is not None
            if current is not None and piece.phase == current[0]:
                name, peak, _, moment = current
                if piece.peak > peak:
                    peak, moment = piece.peak, piece.peak_at
                current = (name, peak, piece.live_after, moment)
                continue
            if current is not None:
                yield current
            current = (piece.phase, piece.peak, piece.live_after, piece.peak_at)
        if current is not None:
            yield current

    def course(self) -> Iterator[tuple[Phase, Moment, int]]:
        """Every moment of the step in order, repetitions included: (phase, moment, live bytes over the base)."""
        for number, piece in enumerate(self.pieces):
            prefixes = self._prefixes(piece)
            for rep in range(piece.reps):
                before, prefix = self._before(piece, rep, prefixes[0][-1]), prefixes[rep == piece.reps - 1]
                for position, size in enumerate(prefix):
                    yield piece.phase, Moment(number, position, rep), before + size

    def _prefixes(self, piece: Piece) -> tuple[list[int], list[int]]:
        """Live bytes after each entry, over what there is before: in any but the last repetition, and in the last."""
        sizes, reps = self.tape.sizes, self.tape.reps
        entries = self._entries(piece)
        many = (lambda i: reps[i]) if piece.run is None else (lambda i: 1)
        deltas = [sizes[i] * many(i) if i >= 0 else -sizes[~i] * many(~i) for i in entries]
        shared = self._shared(piece, entries) if piece.reps > 1 else frozenset()
        once = [0 if i < 0 and ~i in shared else d for i, d in zip(entries, deltas, strict=True)]
        return list(accumulate(once, initial=0)), list(accumulate(deltas, initial=0))

    def _before(self, piece: Piece, rep: int, step: int) -> int:
        """Live bytes before a repetition, each of which but the last adds `step`; see _measure."""
        run = piece.run
        if run is None or rep == 0:
            return piece.live_before
        frees = run.input_held and run.input_kept is not piece.forward
        more = step - self.tape.sizes[run.input] if frees else step
        return piece.live_before + (step + (rep - 1) * more if piece.forward else rep * more)

    def alive(self, moment: Moment) -> Counter[int]:
        """Tensor → how many of it are alive at the moment."""
        counts: Counter[int] = Counter()
        for piece in self.pieces[: moment.piece]:
            self._play(piece, counts, piece.reps - 1, piece.end - piece.start)
            run = piece.run
            if run is not None and piece.forward and run.input_held and not run.input_kept:
                counts[run.output] -= 1  # the last block's input was the output of the one before
        piece = self.pieces[moment.piece]
        self._play(piece, counts, moment.rep, moment.position)
        return +counts

    def _play(self, piece: Piece, counts: "Counter[int]", rep: int, length: int) -> None:
        """Apply `rep` whole repetitions of the piece and then its first `length` entries."""
        reps, run = self.tape.reps, piece.run
        entries = self._entries(piece)
        if run is None:
            for i in entries[:length]:
                if i >= 0:
                    counts[i] += reps[i]
                elif reps[~i] > 1:
                    counts[~i] = 0  # every repetition's copy goes at once
                else:
                    counts[~i] -= 1
            return
        shared = self._shared(piece, entries) if piece.reps > 1 else frozenset()
        # Blocks other than the one next to the outside take their input from, and give their gradient to, a neighbour.
        edge = 0 if piece.forward else piece.reps - 1
        for i in entries if rep else ():
            if i >= 0:
                counts[i] += rep
            elif ~i == run.input:
                outside = int(edge < rep)
                counts[run.input] -= outside
                counts[run.output] -= rep - outside
            elif ~i == run.grad_input:
                counts[run.grad_input] -= 1
                counts[run.grad_output] -= rep - 1
            elif ~i not in shared:
                counts[~i] -= rep
        if rep and run.input_held and run.input_kept is not piece.forward:
            counts[run.output] -= rep - 1 if piece.forward else rep
        for i in entries[:length]:
            if i >= 0:
                counts[i] += 1
            elif ~i == run.input:
                counts[run.input if rep == edge else run.output] -= 1
            elif ~i == run.grad_input:
                counts[run.grad_output if rep else run.grad_input] -= 1
            elif ~i not in shared or rep == piece.reps - 1:
                counts[~i] -= 1
