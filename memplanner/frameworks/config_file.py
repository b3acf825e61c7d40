"""Reads a config of another framework: a YAML or JSON file with one mapping. Files are not trusted."""

from pathlib import Path
from typing import Any, Final

from memplanner.errors import UserError
from memplanner.problems import show
from memplanner.reading import Table, parse_json, read_text, wrong

MOST_MERGED: Final = 10_000
"""Settings that a YAML file's merge keys (<<) may bring in, all together: nested, they multiply."""


def read_config(path: Path) -> Table:
    """The file's mapping; UserError naming the file where it has none."""
    text = read_text(path)
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        return parse_json(text, path)
    return _parse_yaml(text, path)


def _parse_yaml(text: str, path: Path) -> Table:
    import yaml

    class Loader(yaml.SafeLoader):
        """Counts what merge keys bring in before it is copied."""

        merged = 0

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            for key, value in node.value:
                if key.tag != "tag:yaml.org,2002:merge":
                    continue
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(part, yaml.MappingNode):
                        self.flatten_mapping(part)
                        self.merged += 1 + len(part.value)
                        if self.merged > MOST_MERGED:
                            raise yaml.constructor.ConstructorError(None, None, "too much is merged", key.start_mark)
            super().flatten_mapping(node)

    try:
        value: Any = yaml.load(text, Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise _at(path, error) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise wrong(path, f"not usable YAML: {type(error).__name__}") from None
    except (AttributeError, TypeError, KeyError):  # PyYAML's own, of odd tags and keys
        raise wrong(path, "not usable YAML") from None
    if not isinstance(value, dict):
        raise wrong(path, f"holds {show(value)}, not a mapping of settings")
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        raise wrong(path, f"has the key {show(odd[0])}, which is not text")
    return value


def _at(path: Path, error: Any) -> UserError:
    mark = error.problem_mark
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return wrong(path, f"not valid YAML{place}: {error.problem or error.context or 'a syntax error'}")
