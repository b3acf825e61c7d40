"""What every reader of another framework's configs provides, and where in a file its keys are."""

import json

import pytest

from memplanner.files.lines import line_of
from memplanner.frameworks import READERS
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.describe import owners


def test_readers_are_told_apart() -> None:
    names = [reader.NAME for reader in READERS]
    assert len(set(names)) == len(names)
    for reader in READERS:
        assert set(reader.OVER) < set(names) - {reader.NAME}, reader.NAME
        assert all(names.index(name) < names.index(reader.NAME) for name in reader.OVER), (
            "what it is read over is first"
        )
        assert not reader.recognizes({"made_up_key": 1}), reader.NAME
        assert reader.KNOWN_BY.endswith(")"), reader.NAME


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: str(reader.NAME))
def test_every_setting_that_a_reader_decides_exists(reader: object) -> None:
    for setting in reader.DECIDES:  # type: ignore[attr-defined]
        assert owners(TrainingPlan, tuple(setting.split("."))), setting


YAML = """\
# lora_r: 1
text: |
  lora_r: 2
common: &common {micro_batch_size: 1}
lora_r: 4
nested:
  <<: *common
  lora_r: 8
'quoted':  9
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [("lora_r", 5), ("nested lora_r", 8), ("nested micro_batch_size", 4), ("quoted", 9), ("micro_batch_size", None)],
)
def test_the_line_of_a_key_is_its_nodes(keys: str, line: int | None) -> None:
    assert line_of(YAML, keys.split(), form="yaml") == line


@pytest.mark.parametrize("indent", ["\t", "  "])
def test_the_line_of_a_key_in_json(indent: str) -> None:
    text = json.dumps({"optim": "sgd", "inner": {"optim": "x"}, "bf16": True}, indent=indent)
    lines = [line_of(text, keys.split(), form="yaml") for keys in ("optim", "inner optim", "bf16", "fp16")]
    assert lines == [2, 4, 6, None]


@pytest.mark.parametrize("text", ["{", "a: b: c", "[" * 5000, "- 1", "", "a: 1\na: 2"])
def test_text_without_a_mapping_has_no_lines(text: str) -> None:
    assert line_of(text, ("a",), form="yaml") is None
