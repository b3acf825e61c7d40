"""Reads a config of another framework: a YAML or JSON file with one mapping. Files are not trusted."""

import re
from pathlib import Path
from typing import Any, Final

from memplanner.errors import UserError
from memplanner.files.parse import Table, bounded, file_error, parse_json, read_text
from memplanner.settings.errors import show

MAX_BYTES: Final = 128 * 1024
"""Configs are written by hand; reading YAML takes about 10 µs a byte."""

MOST_MERGED: Final = 10_000
"""Settings that a YAML file's merge keys (<<) may bring in, all together: nested, they multiply."""


def read_config(path: Path) -> Table:
    """The file's mapping; UserError naming the file where it has none."""
    text = read_text(path, most=MAX_BYTES)
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        return parse_json(text, path)
    return _parse_yaml(text, path)


def line_of(text: str, key: str) -> int:
    """The first line (from 1) of a YAML or JSON text that sets the key, to point at; 1 where none is found."""
    sets = re.compile(rf"""(^|[{{,\s])["']?{re.escape(key)}["']?\s*:""")
    lines = (line.partition("#")[0] for line in text.splitlines())
    return next((number for number, line in enumerate(lines, 1) if sets.search(line)), 1)


def _parse_yaml(text: str, path: Path) -> Table:
    import yaml

    class Loader(yaml.SafeLoader):
        """Merge keys as YAML's merge type defines them, in any version of PyYAML; refuses a key given twice."""

        merged = 0

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            """In place: the mapping's own settings win, then those merged first."""
            own = []
            parts: list[tuple[yaml.Node, yaml.Node]] = []
            held: dict[str, yaml.Mark] = {}
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    listed = value.value if isinstance(value, yaml.SequenceNode) else [value]
                    parts += ((key, part) for part in listed)
                    continue
                own.append((key, value))
                if isinstance(key, yaml.ScalarNode):
                    if key.value in held:
                        message = f"{show(key.value)} is set twice, first on line {held[key.value].line + 1}"
                        raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
                    held[key.value] = key.start_mark
            node.value = own
            for key, part in parts:
                if not isinstance(part, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(None, None, "merges no mapping", key.start_mark)
                self.flatten_mapping(part)
                self.merged += 1 + len(part.value)
                if self.merged > MOST_MERGED:
                    raise yaml.constructor.ConstructorError(None, None, "too much is merged", key.start_mark)
                for pair in part.value:
                    if pair[0].value not in held:
                        node.value.append(pair)
                        held[pair[0].value] = pair[0].start_mark

    Loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }  # no setting is a date: what looks like one is text
    try:
        value: Any = yaml.load(text, Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise _at(path, error) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise file_error(path, f"not usable YAML: {_first_line(error)}") from None
    except (AttributeError, TypeError, KeyError):  # PyYAML's own, of odd tags and keys
        raise file_error(path, "not usable YAML") from None
    bounded(value, path)
    if value is None:
        raise file_error(path, "is empty")
    if not isinstance(value, dict):
        raise file_error(path, f"holds {show(value)}, not a mapping of settings")
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        raise file_error(path, f"has the key {show(odd[0])}, which is not text")
    return value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200] or type(error).__name__


def _at(path: Path, error: Any) -> UserError:
    mark = error.problem_mark
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return file_error(path, f"not valid YAML{place}: {error.problem or error.context or 'a syntax error'}")
