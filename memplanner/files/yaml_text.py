"""Reads YAML by its nodes, each of which knows its line. Files are not trusted: everything is judged before any value
is made of it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from memplanner.errors import UserError
from memplanner.files.parse import MOST_LEVELS, Table, bounded, file_error
from memplanner.settings.errors import show

if TYPE_CHECKING:
    import yaml

MOST_MERGED: Final = 10_000
"""Settings that a file's merge keys (<<) may bring in, all together: nested, they multiply."""
_MERGE: Final = "tag:yaml.org,2002:merge"
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


def parse_yaml(text: str, where: object) -> Table:
    """The YAML mapping in `text`; UserError naming the place where it is none, or sets a key twice."""
    import yaml

    try:
        loader = _loader(text)
        root = _root(loader)
        value: Any = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise _at(where, error) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise file_error(where, f"not usable YAML: {_first_line(error)}") from None
    except (AttributeError, TypeError, LookupError, ArithmeticError):  # PyYAML's own, of odd tags and keys
        raise file_error(where, "not usable YAML") from None
    bounded(value, where)
    if value is None:
        raise file_error(where, "is empty")
    if not isinstance(value, dict):
        raise file_error(where, f"holds {show(value)}, not a mapping of settings")
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        raise file_error(where, f"has the key {show(odd[0])}, which is not text")
    return value


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line (from 1) of every key of a YAML or JSON text, by its path; empty where the text is neither."""
    import yaml

    try:
        root = _root(_loader(text.replace("\t", " ")))  # JSON may be indented with tabs, which YAML may not
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    lines: dict[tuple[str, ...], int] = {}
    level: list[tuple[tuple[str, ...], yaml.Node]] = [((), root)] if root is not None else []
    visited: set[int] = set()
    while level:  # level by level, so that of several paths to an anchor's node the shortest counts
        inner = []
        for path, node in level:
            if isinstance(node, yaml.MappingNode) and id(node) not in visited:
                visited.add(id(node))
                for key, value in node.value:
                    if isinstance(key, yaml.ScalarNode):
                        lines.setdefault((*path, key.value), key.start_mark.line + 1)
                        inner.append(((*path, key.value), value))
        level = inner
    return lines


def _loader(text: str) -> "yaml.SafeLoader":
    """PyYAML's safe loader, to which what looks like a date is text: no setting is a date. Brackets inside each other,
    all of which its scanner looks at for every word, are limited.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    begin = loader.fetch_flow_collection_start

    def begin_one_more(token: Any) -> None:
        if loader.flow_level >= MOST_LEVELS:
            raise _error(f"more than {MOST_LEVELS} brackets inside each other", loader.get_mark())
        begin(token)

    loader.fetch_flow_collection_start = begin_one_more  # type: ignore[assignment, method-assign]
    return loader


def _root(loader: "yaml.SafeLoader") -> "yaml.Node | None":
    """The document's node, judged: no key is set twice, and merge keys are replaced by what they bring in."""
    root = loader.get_single_node()
    budget = _MergeBudget()
    for mapping in list(_mappings(root)):
        _flatten(mapping, budget)
    return root


def _mappings(root: "yaml.Node | None") -> Iterator["yaml.MappingNode"]:
    """Every mapping of a document, each once however many aliases it has, the outer before the inner."""
    import yaml

    level: list[Any] = [root]
    visited: set[int] = set()
    while level:
        inner: list[Any] = []
        for node in level:
            if id(node) in visited:
                continue
            visited.add(id(node))
            if isinstance(node, yaml.MappingNode):
                yield node
                inner += (part for pair in node.value for part in pair)
            elif isinstance(node, yaml.SequenceNode):
                inner += node.value
        level = inner


class _MergeBudget:
    """How many settings merge keys may still bring in."""

    def __init__(self) -> None:
        self.left = MOST_MERGED

    def spend(self, count: int, mark: "yaml.Mark") -> None:
        self.left -= count
        if self.left < 0:
            raise _error("too much is merged", mark)


def _flatten(node: "yaml.MappingNode", budget: _MergeBudget) -> None:
    """Replace the mapping's merge keys, in place, as YAML's merge type defines: its own settings win over those that
    are merged, and among those the first.
    """
    import yaml

    own, merges = [], []
    first: dict[str, yaml.Mark] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            merges += [(key.start_mark, part) for part in parts]
            continue
        own.append((key, value))
        if isinstance(key, yaml.ScalarNode):
            if key.value in first:
                raise _error(
                    f"{show(key.value)} is set twice, first on line {first[key.value].line + 1}", key.start_mark
                )
            first[key.value] = key.start_mark
    node.value = own
    for mark, part in merges:
        if not isinstance(part, yaml.MappingNode):
            raise _error("<< merges something that is not a mapping", mark)
        _flatten(part, budget)
        budget.spend(1 + len(part.value), mark)
        for key, value in list(part.value):
            if not isinstance(key, yaml.ScalarNode):
                node.value.append((key, value))
            elif key.value not in first:
                node.value.append((key, value))
                first[key.value] = key.start_mark


def _error(problem: str, mark: "yaml.Mark") -> "yaml.MarkedYAMLError":
    import yaml

    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200] or type(error).__name__


def _at(where: object, error: Any) -> UserError:
    mark = error.problem_mark
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return file_error(where, f"not valid YAML{place}: {error.problem or error.context or 'a syntax error'}")
