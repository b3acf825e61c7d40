"""Writes step programs as JSON and reads them back without loss, for recorded families and caches. Needs no torch."""

import json
from typing import Any, Final, get_args

from memplanner.program import shapes
from memplanner.program.program import (
    Carried,
    Persistent,
    PersistentTensor,
    Repeat,
    StepProgram,
    Structure,
    TensorInfo,
)
from memplanner.program.shapes import Dtype, Shape
from memplanner.program.symbolic import Arithmetic, SymInt
from memplanner.program.symbolic_program import SymbolicProgram
from memplanner.timeline import Category, Phase

SCHEMA: Final = "memplanner/program/1"
_DTYPES: Final = {value.name: value for value in vars(shapes).values() if isinstance(value, Dtype)}


def dumps(program: StepProgram | SymbolicProgram) -> str:
    """The program as JSON text, in which a SymInt is written as "@" and its place."""
    symbolic = program if isinstance(program, SymbolicProgram) else None
    plain = symbolic.program if symbolic is not None else program
    assert isinstance(plain, StepProgram)
    structure = plain.structure
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "phases": structure.phases,
        "events": structure.events,
        "repeats": structure.repeats,
        "tensors": [_tensor(tensor) for tensor in plain.tensors],
        "sizes": [_number(size) for size in plain.sizes],
        "persistent": [_persistent(tensor) for tensor in plain.persistent],
        "checkpoint": None if plain.persistent.checkpoint is None else plain.persistent.checkpoint.name,
        "packed": plain.persistent.is_packed,
        "refresh_only": sorted(plain.refresh_only),
        "symbols": list(plain.symbols),
    }
    if symbolic is not None:
        table["arithmetic"] = symbolic.arithmetic.as_table()
    return json.dumps(table, separators=(",", ":"))


def loads(text: str) -> StepProgram | SymbolicProgram:
    """The program in a text that `dumps` wrote; ValueError for any other text."""
    try:
        table = json.loads(text)
        if table["schema"] != SCHEMA:
            raise ValueError(f"schema {table['schema']!r} is not {SCHEMA!r}")
        arithmetic = Arithmetic.from_table(table["arithmetic"]) if "arithmetic" in table else None
        program = _program(table, arithmetic)
    except (KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"not a step program: {error!r}") from None
    return program if arithmetic is None else SymbolicProgram(program=program, arithmetic=arithmetic)


def _program(table: dict[str, Any], arithmetic: Arithmetic | None) -> StepProgram:
    tensors = tuple(
        TensorInfo(scope, name, _shape(shape, arithmetic), _DTYPES[dtype], _category(category), copies, stream)
        for scope, name, shape, dtype, category, copies, stream in table["tensors"]
    )
    structure = Structure(
        events=tuple(table["events"]),
        phases=tuple((_phase(name), position) for name, position in table["phases"]),
        repeats=tuple(
            Repeat(start, end, times, blocks, descending, tuple(Carried(*fields) for fields in carried))
            for start, end, times, blocks, descending, carried in table["repeats"]
        ),
        copies=tuple(tensor.copies for tensor in tensors),
    )
    persistent = tuple(
        PersistentTensor(
            name,
            _category(category),
            _shape(shape, None),
            _DTYPES[dtype],
            copies,
            role,
            trainable,
            None if stands_for is None else _shape(stands_for, None),
            is_reached,
        )
        for name, category, shape, dtype, copies, role, trainable, stands_for, is_reached in table["persistent"]
    )
    return StepProgram(
        tensors=tensors,
        sizes=[_read_number(size, arithmetic) for size in table["sizes"]],
        structure=structure,
        persistent=Persistent(
            persistent,
            checkpoint=None if table["checkpoint"] is None else _DTYPES[table["checkpoint"]],
            is_packed=table.get("packed", False),
        ),
        refresh_only=frozenset(table["refresh_only"]),
        symbols=tuple(table["symbols"]),
    )


def _tensor(tensor: TensorInfo) -> list[Any]:
    scope, name, shape, dtype, category, copies, stream = tensor
    return [scope, name, _dims(shape), dtype.name, category, copies, stream]


def _persistent(tensor: PersistentTensor) -> list[Any]:
    name, category, shape, dtype, copies, role, trainable, stands_for, is_reached = tensor
    whole = None if stands_for is None else _dims(stands_for)
    return [name, category, _dims(shape), dtype.name, copies, role, trainable, whole, is_reached]


def _dims(shape: Shape) -> list[list[Any]]:
    return [[label, _number(dim)] for label, dim in zip(shape.labels, shape.dims, strict=True)]


def _shape(dims: list[list[Any]], arithmetic: Arithmetic | None) -> Shape:
    return Shape(**{label: _read_number(dim, arithmetic) for label, dim in dims})


def _number(number: int) -> int | str:
    return f"@{number.place}" if isinstance(number, SymInt) else number


def _read_number(text: Any, arithmetic: Arithmetic | None) -> Any:
    if isinstance(text, str) and text.startswith("@"):
        if arithmetic is None:
            raise ValueError(f"{text!r} refers to an arithmetic, and the program has none")
        return arithmetic.at_place(int(text[1:]))
    if isinstance(text, bool) or not isinstance(text, int):
        raise ValueError(f"{text!r} is not a whole number")
    return text


def _category(name: str) -> Category:
    if name not in get_args(Category):
        raise ValueError(f"{name!r} is not a category")
    return name  # type: ignore[return-value]  # it is one of them


def _phase(name: str) -> Phase:
    if name not in get_args(Phase):
        raise ValueError(f"{name!r} is not a phase")
    return name  # type: ignore[return-value]  # it is one of them
