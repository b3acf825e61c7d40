"""Reads a config of another framework: a YAML or JSON file with one mapping. Files are not trusted."""

from pathlib import Path
from typing import Final

from memplanner.files.parse import Table, parse_json, read_text
from memplanner.files.yaml_text import parse_yaml

MAX_BYTES: Final = 128 * 1024
"""Configs are written by hand; reading YAML takes about 10 µs a byte."""


def read_config(path: Path) -> Table:
    """The file's mapping; UserError naming the file where it has none."""
    text = read_text(path, most=MAX_BYTES)
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        return parse_json(text, path)
    return parse_yaml(text, path)
