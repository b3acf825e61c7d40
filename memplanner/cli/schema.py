"""memplanner schema: the JSON Schema of a plan, for editors and other tools."""

import argparse
from pathlib import Path
from typing import Any

from memplanner.cli.main import Answer
from memplanner.plan.named import FROM, IGNORED
from memplanner.plan.qlora import QLORA, UNDER
from memplanner.plan.sources import PLANS
from memplanner.plan.training_plan import TrainingPlan
from memplanner.report.as_json import dump
from memplanner.report.terminal import Page
from memplanner.settings.describe import json_schema


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    """No arguments."""


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    return Answer(text=dump(_with_named_plans(_with_qlora(json_schema(TrainingPlan)))))


def _with_qlora(schema: dict[str, Any]) -> dict[str, Any]:
    """A plan file's method may also be qlora, whose table is that of the method under it but for its kind."""
    definitions, choice = schema["$defs"], schema["properties"]["method"]["anyOf"][-1]
    under = choice["discriminator"]["mapping"][UNDER].rpartition("/")[2]
    name, reference = under.replace(UNDER.title(), QLORA.title()), f"#/$defs/{QLORA.title()}"
    kind = definitions[under]["properties"]["kind"] | {"const": QLORA, "default": QLORA}
    properties = definitions[under]["properties"] | {"kind": kind}
    definitions[name] = definitions[under] | {"title": name, "properties": properties, "required": ["kind"]}
    choice["discriminator"]["mapping"][QLORA] = reference
    choice["oneOf"].append({"$ref": reference})
    return schema


def _with_named_plans(schema: dict[str, Any]) -> dict[str, Any]:
    """A plan file may also hold plans by name: each with the settings of a plan, and a config to start from."""
    names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    own = {
        FROM: names
        | {"description": "Another framework's config that the plan starts from, or several that belong together."},
        IGNORED: names | {"description": "Keys of those configs that are passed over as if they were not there."},
    }
    named = {"type": "object", "additionalProperties": False, "properties": {**schema["properties"], **own}}
    plans = {"type": "object", "additionalProperties": named, "description": "Plans by name, over what holds for all."}
    return {**schema, "properties": {**schema["properties"], PLANS: plans}}
