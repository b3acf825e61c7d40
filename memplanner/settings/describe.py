"""What can be read off the settings classes: field docs, nested groups, words for a choice, JSON Schema.

One declaration of a setting (its annotation, default and docstring) feeds flags, schema and the terminal interface.
"""

import ast
import functools
import inspect
import textwrap
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from memplanner.settings.base import Settings
from memplanner.settings.kinds import Kinds


@functools.cache
def field_docs(cls: type[Settings]) -> dict[str, str]:
    """Field name -> the docstring written under it, joined to one line; inherited fields included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not (issubclass(base, Settings) and base is not Settings):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and field.target.id in base.model_fields
                and isinstance(doc, ast.Expr)
                and isinstance(doc.value, ast.Constant)
                and isinstance(doc.value.value, str)
            ):
                docs[field.target.id] = " ".join(doc.value.value.split())
    return docs


def _leaves(annotation: Any) -> tuple[Any, ...]:
    """The plain types inside an annotation, without Annotated, Union, None, list and tuple around them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _leaves(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(leaf for member in get_args(annotation) for leaf in _leaves(member))
    if origin in (list, tuple):
        return tuple(leaf for member in get_args(annotation) if member is not ... for leaf in _leaves(member))
    return () if annotation is type(None) else (annotation,)


@functools.cache
def kinds(cls: type[Settings], name: str) -> Kinds | None:
    """The alternatives that field `name` may be; None where it is not one of several that are told apart by kind."""
    field = cls.model_fields.get(name)
    return next((data for data in field.metadata if isinstance(data, Kinds)), None) if field is not None else None


@functools.cache
def groups(cls: type[Settings], name: str) -> tuple[type[Settings], ...]:
    """The settings classes that field `name` may hold: several for a union, none for a plain value."""
    if alternatives := kinds(cls, name):
        return alternatives.members
    field = cls.model_fields.get(name)
    leaves = _leaves(field.annotation) if field is not None else ()
    return tuple(leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, Settings))


@functools.cache
def choices(cls: type[Settings], name: str) -> tuple[str, ...]:
    """The words that field `name` may be: a Literal's values, or the kinds of a union."""
    if alternatives := kinds(cls, name):
        return tuple(alternatives.homes)
    if members := groups(cls, name):
        return tuple(kind_of(member) for member in members if "kind" in member.model_fields)
    leaves = _leaves(cls.model_fields[name].annotation)
    return tuple(value for leaf in leaves if get_origin(leaf) is Literal for value in get_args(leaf))


@functools.cache
def words(cls: type[Settings], name: str) -> dict[str, dict[str, Any]]:
    """The words that one of several alternatives may be written as -> the table that each stands for:
    "lora" -> {"kind": "lora"}. None where the field is not one of several.
    """
    alternatives = kinds(cls, name)
    if alternatives is None:
        return {}
    return {word: table for kind in alternatives.homes for word, table in alternatives.words_of(kind).items()}


def expand(cls: type[Settings], name: str, word: str) -> dict[str, Any]:
    """The table that a word stands for in field `name`. An unknown word is taken for a kind, which none has."""
    alternatives = kinds(cls, name)
    return alternatives.table(word) if alternatives else {"kind": word}


def word_for(cls: type[Settings], name: str, value: Settings) -> str:
    """The word that a group would be written as: the first whose settings it has, else its kind."""
    for word, table in words(cls, name).items():
        if all(getattr(value, key, None) == setting for key, setting in table.items()):
            return word
    return kind_of(type(value))


def kind_of(cls: type[Settings]) -> str:
    """The `kind` that selects this class in its union."""
    return str(cls.model_fields["kind"].default)


@functools.cache
def owners(cls: type[Settings], path: tuple[str, ...]) -> tuple[type[Settings], ...]:
    """The classes that declare the last key of a dotted path, e.g. ("method", "rank") -> Lora, Dora, Galore, …"""
    level: tuple[type[Settings], ...] = (cls,)
    for key in path[:-1]:
        level = tuple(member for owner in level for member in groups(owner, key))
    return tuple(owner for owner in level if path[-1] in owner.model_fields)


def json_schema(cls: type[Settings]) -> dict[str, Any]:
    """The class's JSON Schema with the field docs as descriptions.

    A union may also be written as a word (`method = "lora"`), so the schema accepts text in its place.
    """
    schema = cls.model_json_schema()
    classes = {cls.__name__: cls} | {member.__name__: member for member in _reachable(cls)}
    for name, table in {cls.__name__: schema, **schema.get("$defs", {})}.items():
        for field, doc in field_docs(classes[name]).items():
            table["properties"][field]["description"] = doc
        for field, value in table.get("properties", {}).items():
            info = classes[name].model_fields[field]
            if info.default_factory is not None:
                value["default"] = info.get_default(call_default_factory=True).model_dump(mode="json")
            if "discriminator" in value:
                kept = {k: value.pop(k) for k in ("description", "default", "title") if k in value}
                table["properties"][field] = {**kept, "anyOf": [{"type": "string"}, value]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _reachable(cls: type[Settings]) -> set[type[Settings]]:
    """The settings classes inside a class, at any depth."""
    direct = {member for name in cls.model_fields for member in groups(cls, name)}
    return direct.union(*(_reachable(member) for member in direct)) if direct else direct
