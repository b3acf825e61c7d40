"""The base of plain values. It does what dataclasses do, without compiling code for every class at import.

A frozen dataclass costs a cold start as much as 150 lines of code; some forty of them are on the way to one answer
(benchmarks/cold_start.py). Type checkers read a Frozen class as a frozen dataclass whose fields are given by name.
"""

from typing import Any, ClassVar, Self, dataclass_transform, get_origin


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Frozen:
    """A frozen value whose fields are its annotations, in order; what a class sets is a field's default.

    Values are equal if they are of one class and all their fields are; with eq=False a value is equal to itself alone.
    kw_only=False lets type checkers accept fields by position.
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, eq: bool = True, kw_only: bool = True) -> None:
        super().__init_subclass__()
        own = [name for name, annotation in cls.__annotations__.items() if _is_field(annotation)]
        cls._fields = (*cls._fields, *(name for name in own if name not in cls._fields))
        if not eq:
            cls.__eq__ = object.__eq__  # type: ignore[method-assign]
            cls.__hash__ = object.__hash__  # type: ignore[method-assign]

    def __init__(self, *args: Any, **values: Any) -> None:
        cls = type(self)
        if args:
            values = dict(zip(cls._fields, args, strict=False)) | values
        if len(values) < len(cls._fields):
            missing = [name for name in cls._fields if name not in values and not hasattr(cls, name)]
            if missing:
                raise TypeError(f"{cls.__name__} is missing {', '.join(missing)}")
        if not values.keys() <= set(cls._fields):
            raise TypeError(f"{cls.__name__} has no {', '.join(sorted(values.keys() - set(cls._fields)))}")
        self.__dict__.update(values)

    def replaced(self, **changes: Any) -> Self:
        """The same value with other fields, as dataclasses.replace makes it."""
        fields = self.__dict__
        return type(self)(**{name: fields[name] for name in self._fields if name in fields} | changes)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._fields)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._fields))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({fields})"


def _is_field(annotation: object) -> bool:
    return annotation is not ClassVar and get_origin(annotation) is not ClassVar
