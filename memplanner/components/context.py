"""What an architecture's forward pass writes with: the tape plus the plan's precision, method and shapes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from memplanner.components.attention import Attention, Call
from memplanner.components.methods.base import Method
from memplanner.components.quantization.base import Quantization
from memplanner.errors import Problem, UserError
from memplanner.frozen import Frozen
from memplanner.notes import Note, OtherKernel
from memplanner.program.shapes import FP32, Dtype, Shape
from memplanner.tape import nn, ops
from memplanner.tape.attention import Heads, Kernel
from memplanner.tape.engine import Param, Role, Tape, Tensor
from memplanner.tape.projection import Projection
from memplanner.timeline import Category


class LinearSpec(Frozen, kw_only=False):
    """A linear module: path inside its block, e.g. "self_attn.q_proj", and its sizes."""

    path: str
    in_features: int
    out_features: int
    bias: bool = False
    labels: tuple[str, str] = ("out", "in_")
    conv1d: bool = False
    """GPT-2's Conv1D: the weight is stored (in, out)."""
    in_block: bool = True
    """Whether it belongs to one of the model's repeated blocks."""
    is_head: bool = False
    """Whether it is the model's output projection, which is never quantised."""
    tied_to: str = ""
    """The parameter that is its weight as well, by its path from the root."""

    @property
    def weight_shape(self) -> Shape:
        """(out, in), or (in, out) for Conv1D."""
        out, in_ = self.labels
        if self.conv1d:
            return Shape(**{in_: self.in_features, out: self.out_features})
        return Shape(**{out: self.out_features, in_: self.in_features})

    @property
    def bias_shape(self) -> Shape:
        """(out,)."""
        return Shape(**{self.labels[0]: self.out_features})


class Numerics(Frozen):
    """The types that a step computes in.

    weights: of the model's weights. linears: of those of linear layers in the blocks. stored: of those that were
    quantised, before they were. autocast: that autocast runs matrix products in, None without it. compute: of products
    with a quantised weight. norms: of the norms' weights.
    """

    weights: Dtype
    linears: Dtype
    stored: Dtype
    autocast: Dtype | None
    compute: Dtype
    norms: Dtype


class Context:
    """The tape, and how this plan computes.

    ranks: of the modules that the method acts on, by their paths as the tape's scopes begin them ("layers.0"). copied:
    paths, alike, of the modules that are trained as copies.
    checkpoint_every: 0 without checkpointing, else N for blocks 0, N, 2N, … use_reentrant: how these are checkpointed.
    input_gradients: the embeddings' output asks for a gradient. kernels: those of other packages that take the place
    of transformers' own code.
    """

    def __init__(
        self,
        *,
        tape: Tape,
        batch: int,
        seq: int,
        method: Method,
        numerics: Numerics,
        attention: Attention,
        quantization: Quantization | None,
        ranks: Mapping[str, int],
        copied: frozenset[str] = frozenset(),
        checkpoint_every: int,
        use_reentrant: bool,
        input_gradients: bool,
        kernels: frozenset[str],
    ) -> None:
        self.tape = tape
        self.batch, self.seq = batch, seq
        self.method = method
        self.numerics = numerics
        self.weight_dtype, self.autocast, self.norm_dtype = numerics.weights, numerics.autocast, numerics.norms
        self.attention = attention
        self.quantization = quantization
        self.ranks = ranks
        self.copied = copied
        self.checkpoint_every = checkpoint_every
        self.use_reentrant = use_reentrant
        self.input_gradients = input_gradients
        self.kernels = kernels
        self.adapters_enabled = True
        self.notes: list[Note] = []

    def attention_type(self, dtype: Dtype) -> Dtype | None:
        """The type that queries, keys and values of this type are cast to, if any: autocast's, or, for the package
        flash-attn, which takes no fp32, the model's own over a quantised base (transformers'
        integrations/flash_attention.py, get_target_dtype).
        """
        if self.autocast is None and dtype is FP32 and self.attention.kind == "flash-attention-2":
            return self.numerics.compute
        return self.autocast

    def kernel(
        self, heads: Heads, mask: Tensor | None, dropout: float, dtype: Dtype, *, broadcasts: bool = False
    ) -> Kernel:
        """The attention kernel that runs on this device for queries of this type, which autocast may lower. broadcasts:
        as attention.Call has it.
        """
        attention = self.attention
        is_expanded = broadcasts or heads.is_expanded(masked=mask is not None)
        call = Call(
            dtype=self.attention_type(dtype) or dtype,
            seq=heads.seq,
            groups=1 if is_expanded else heads.groups,
            head_dim=heads.head_dim,
            value_dim=heads.value_dim,
            masked=mask is not None,
            dropout=dropout,
            broadcasts=broadcasts,
        )
        kernel = attention.kernel(call)
        if attention.kind == "sdpa" and kernel != "flash":
            self.notes.append(
                OtherKernel(
                    kernel=kernel.removesuffix("-grouped"),
                    against_flash=attention.against_flash(call),
                    against_efficient=attention.against_efficient(call),
                )
            )
        return kernel

    @contextlib.contextmanager
    def no_grad(self) -> Iterator[None]:
        """torch.no_grad: what is computed meanwhile enters no graph."""
        enabled, self.tape.grad_enabled = self.tape.grad_enabled, False
        yield
        self.tape.grad_enabled = enabled

    @contextlib.contextmanager
    def adapters_off(self) -> Iterator[None]:
        """peft's disable_adapter: the base model alone, as the reference of preference losses is."""
        enabled, self.adapters_enabled = self.adapters_enabled, False
        yield
        self.adapters_enabled = enabled

    # -- parameters ----------------------------------------------------------------------------------------------

    def param(
        self,
        path: str,
        shape: Shape,
        *,
        trainable: bool | None = None,
        dtype: Dtype | None = None,
        category: Category = "parameters",
        role: Role = "weight",
        stands_for: Shape | None = None,
        projection: Projection | None = None,
        tied_to: str = "",
    ) -> Param:
        """The weight of this name in the current block, made the first time it is asked for; the arguments are
        tape.engine.Param's. tied_to: the parameter that it is, by its key, where the two are one.

        Of a module that is trained as a copy, the copy's: the original stays as it is, frozen, and runs where adapters
        are switched off (peft/utils/other.py, ModulesToSaveWrapper).
        """
        module, _, name = path.rpartition(".")
        if self.is_copied(module):
            original = self._param(path, shape, trainable=False, dtype=dtype, role=role, tied_to=tied_to)
            if not self.adapters_enabled:
                return original
            path, tied_to = f"{module}.modules_to_save.{name}", ""
            trainable = role == "weight"
            dtype = self.method.copied_dtype(original.dtype) if trainable else original.dtype
        return self._param(
            *(path, shape),
            trainable=trainable,
            dtype=dtype,
            category=category,
            role=role,
            stands_for=stands_for,
            projection=projection,
            tied_to=tied_to,
        )

    def _param(
        self,
        path: str,
        shape: Shape,
        *,
        trainable: bool | None,
        dtype: Dtype | None,
        category: Category = "parameters",
        role: Role = "weight",
        stands_for: Shape | None = None,
        projection: Projection | None = None,
        tied_to: str = "",
    ) -> Param:
        tape = self.tape
        key = tied_to or (f"{tape.scope}.{path}" if tape.scope else path)
        found = tape.params.get(key)
        if found is None:
            found = tape.params[key] = Param(
                key,
                shape,
                dtype or self.weight_dtype,
                count=tape.current_copies,
                trainable=self.method.trains(self, path) if trainable is None else trainable,
                category=category,
                role=role,
                stands_for=stands_for,
                projection=projection,
            )
        return found

    def shared_param(
        self, path: str, shape: Shape, *, dtype: Dtype, category: Category = "adapters", role: Role = "weight"
    ) -> Param:
        """A frozen tensor that the model has once, by its path from the model's root, whichever blocks use it. One that
        learns would collect a gradient from every block, which repeated blocks do not model.
        """
        tape = self.tape
        scope, copies = tape.scope, tape.current_copies
        tape.scope, tape.current_copies = "", 1
        param = self.param(path, shape, trainable=False, dtype=dtype, category=category, role=role)
        tape.scope, tape.current_copies = scope, copies
        return param

    # -- layers --------------------------------------------------------------------------------------------------

    def path_of(self, name: str) -> str:
        """The path of a module of the present block. A block that stands for several is asked about as the first of
        them, whose modules are treated as those of all.
        """
        scope = self.tape.scope.partition("–")[0]
        return f"{scope}.{name}" if scope else name

    def rank_of(self, spec: LinearSpec) -> int | None:
        """The method's rank for a linear module of the present block, None where it leaves the module alone."""
        return self.ranks.get(self.path_of(spec.path))

    def is_copied(self, name: str) -> bool:
        """Whether a module of the present block is trained as a copy (peft's modules_to_save)."""
        return bool(self.copied) and self.path_of(name) in self.copied

    def quantization_of(self, spec: LinearSpec) -> Quantization | None:
        """How the frozen weight of a linear module is kept."""
        return None if spec.is_head else self.quantization

    def linear(self, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """A linear layer as the method has it, or its copy, which is a plain one."""
        if self.is_copied(spec.path):
            return self.plain_linear(spec, x, out_shape, trainable=True)
        return self.method.linear(self, spec, x, out_shape)

    def embedding(self, path: str, table: Shape, indices: Tensor, out_shape: Shape, name: str) -> Tensor:
        """Rows of a table as the method has it."""
        return self.method.embedding(self, path, table, indices, out_shape, name)

    def head(self, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """A linear layer of a new classification head, trained whole under every method."""
        return self.plain_linear(spec, x, out_shape, trainable=True)

    def plain_linear(
        self,
        spec: LinearSpec,
        x: Tensor,
        out_shape: Shape,
        *,
        trainable: bool,
        projection: Projection | None = None,
    ) -> Tensor:
        """torch.nn.Linear, in autocast's type where there is autocast. projection: of its weight's gradient."""
        weight, bias = self._weight_and_bias(spec, trainable=trainable, projection=projection)
        return self.matmul(x, weight, bias, out_shape, f"{spec.path} output")

    def _weight_and_bias(
        self, spec: LinearSpec, *, trainable: bool, projection: Projection | None = None
    ) -> tuple[Param, Param | None]:
        dtype = self.numerics.linears
        weight = self.param(
            f"{spec.path}.weight",
            spec.weight_shape,
            trainable=trainable,
            dtype=dtype,
            projection=projection,
            tied_to=spec.tied_to,
        )
        bias: Param | None = None
        if spec.bias:
            bias = self.param(f"{spec.path}.bias", spec.bias_shape, trainable=trainable, dtype=dtype)
        return weight, bias

    def frozen_linear(self, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """The base layer under an adapter: its weight frozen, and quantised where the plan says so."""
        quantization = self.quantization_of(spec)
        if quantization is None:
            return self.plain_linear(spec, x, out_shape, trainable=False)
        self.frozen_params(spec)
        types = self.numerics.compute, self.numerics.stored
        return quantization.linear(x, spec.weight_shape, out_shape, *types, f"{spec.path} output")

    def frozen_params(self, spec: LinearSpec) -> None:
        """The parameters of the base layer under an adapter."""
        quantization = self.quantization_of(spec)
        if quantization is None:
            self._weight_and_bias(spec, trainable=False)
            return
        packed, *scales = quantization.tensors(spec.weight_shape)
        self.param(
            f"{spec.path}.{packed.name}",
            packed.shape,
            trainable=False,
            dtype=packed.dtype,
            stands_for=spec.weight_shape,
        )
        for scale in scales:
            self.buffer(f"{spec.path}.{scale.name}", scale.shape, scale.dtype)
        for table in quantization.shared:
            self.shared_param(table.name, table.shape, dtype=table.dtype, category="parameters", role="buffer")
        if spec.bias:
            self.param(f"{spec.path}.bias", spec.bias_shape, trainable=False)

    def fuses(self, kernel: str, *specs: LinearSpec) -> bool:
        """Whether a kernel of the method computes these linear layers together with their adapters: all of them need
        one (axolotl/monkeypatch/lora_kernels.py, apply_lora_kernel_patches).
        """
        return kernel in self.method.lora_kernels and self.adapters_enabled and all(map(self.rank_of, specs))

    def matmul(
        self, x: Tensor, weight: Param | Tensor, bias: Param | Tensor | None, out_shape: Shape, name: str
    ) -> Tensor:
        """torch.nn.functional.linear under the plan's autocast."""
        if self.autocast is not None:
            # C++ evaluates the casts of a call's arguments last to first.
            if bias is not None:
                bias = nn.cast_param(self.tape, bias, self.autocast)
            x, weight = self.lowered(x, weight)
        return nn.matmul_weight(x, weight, bias, out_shape, name)

    def lowered(self, x: Tensor, weight: Param | Tensor) -> tuple[Tensor, Param | Tensor]:
        """An input and a weight in autocast's type."""
        if self.autocast is None:
            return x, weight
        cast = nn.cast_param(self.tape, weight, self.autocast)
        return nn.cast_input(x, self.autocast), cast

    def require_input_gradients(self, embeddings: Tensor) -> None:
        """enable_input_require_grads: the embedding's output asks for a gradient of its own if it has none. The graph
        holds on to it, as to any leaf.
        """
        if self.input_gradients and self.tape.grad_enabled and embeddings.node is None:
            leaf = Param(
                "embeddings",
                embeddings.shape,
                embeddings.dtype,
                count=1,
                trainable=True,
                role="leaf",
                value=embeddings,
            )
            embeddings.node = self.tape.record(ops.pass_backward, (leaf,))

    def buffer(self, path: str, shape: Shape, dtype: Dtype, category: Category = "parameters") -> None:
        """A module's buffer: no parameter of the model."""
        self.param(path, shape, trainable=False, dtype=dtype, category=category, role="buffer")

    def layers(
        self,
        prefix: str,
        num_layers: int,
        block: Callable[[int, Tensor, Any], Tensor],
        entering: list[Tensor],
        shared: Callable[[int], Any],
        kinds: Sequence[str] = (),
        counted_before: int = 0,
    ) -> Tensor:
        """A stack of blocks under the plan's checkpointing: transformers checkpoints blocks 0, N, 2N, …

        entering: the hidden state, taken out of the list, so that it lives on only if the caller holds it elsewhere.
        shared: what a block is given beside the hidden state; a checkpointed call holds on to it. kinds: of each block,
        where they are not all of one kind. counted_before: how many other modules transformers counts before the first
        block, such as those of a tower for images.
        """
        every, tape = self.checkpoint_every, self.tape

        def layer(i: int, h: Tensor) -> Tensor:
            given = shared(i)
            if every and (i + counted_before) % every == 0:
                out = tape.checkpoint(lambda x: block(i, x, given), h, use_reentrant=self.use_reentrant)
                self._check_trained(out)
                return out
            return block(i, h, given)

        return tape.stack(prefix, self.runs(prefix, num_layers, kinds, counted_before), layer, entering)

    def _check_trained(self, out: Tensor) -> None:
        """UserError where no gradient enters a checkpointed block that has something to train: with use_reentrant
        its output asks for one only if its input does.
        """
        tape = self.tape
        if not (self.use_reentrant and tape.grad_enabled and out.node is None):
            return
        block = f"{tape.scope}."
        trained = next((p.name for p in tape.params.values() if p.trainable and p.name.startswith(block)), None)
        if trained is not None:
            message = f"{trained} would get no gradient: the checkpointed block's input asks for none"
            hint = "input_gradients true, or use_reentrant false"
            raise UserError(Problem(where="plan", key="step.use_reentrant", message=message, hint=hint))

    def runs(
        self, prefix: str, num_layers: int, kinds: Sequence[str] = (), counted_before: int = 0
    ) -> list[tuple[int, int]]:
        """Stretches of equal blocks as (width, reps): by their kinds, by what the method does to their modules, and
        by the period of checkpointing.
        """
        period = max(1, self.checkpoint_every)
        treated = self.treated_by_block(prefix, num_layers)
        blocks = list(zip(kinds or [""] * num_layers, treated, strict=True))
        runs: list[tuple[int, int]] = []
        i = 0
        while i < num_layers:
            end = next((j for j in range(i, num_layers) if blocks[j] != blocks[i]), num_layers)
            after = (i + counted_before) % period
            reps = (end - i) // period if after == 0 else 0
            width = period if reps else 1
            if not reps:  # to the next checkpointed block, or that block alone
                reps = 1 if after == 0 else min(end, i + period - after) - i
            runs.append((width, reps))
            i += width * reps
        return runs

    def treated_by_block(self, prefix: str, num_layers: int) -> list[dict[str, int | None]]:
        """The method's ranks within each block of a stack, by the modules' paths in it; None for those copied."""
        blocks: list[dict[str, int | None]] = [{} for _ in range(num_layers)]
        for path, rank in (*self.ranks.items(), *((path, None) for path in self.copied)):
            if path.startswith(f"{prefix}."):
                number, _, name = path.removeprefix(f"{prefix}.").partition(".")
                blocks[int(number)][name] = rank
        return blocks
