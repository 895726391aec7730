"""JSON schema of recipes, for editors that complete and check them: `launch/x.py --schema`, `recipes/schema/`.

    # yaml-language-server: $schema=schema/grpo.json

It is the models' own, with what recipes add: `base:`, which may state the required keys; `null`, which takes back what
a base said; on, off, yes and no for booleans; and unquoted numbers for texts. Draft 7, which editors know best.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from stage.recipe.annotations import is_section, members
from stage.recipe.keys import BASE
from stage.recipe.schema import WORDS
from stage.recipe.sections import StageRecipe
from vlm.common.section import Section


class _Generator(GenerateJsonSchema):
    """Overrides `bool_schema`, `str_schema`, `nullable_schema` and `field_title_should_be_set`: how recipes write
    booleans and texts; no union for null, and no titles, which repeat the keys."""

    def bool_schema(self, schema: core_schema.BoolSchema) -> dict[str, Any]:
        return {"enum": [True, False, *WORDS]}

    def str_schema(self, schema: core_schema.StringSchema) -> dict[str, Any]:
        return {"type": ["string", "number"]}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> dict[str, Any]:
        return _nullable(self.generate_inner(schema["schema"]))

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema(cls: type[Section], whole: bool = True) -> str:
    """As text. whole: without `base:` the required keys must be stated; false for a base that is no recipe itself."""
    found = cls.model_json_schema(schema_generator=_Generator, ref_template="#/definitions/{model}")
    found["definitions"] = found.pop("$defs", {})
    complete = _stated_whole(found)
    for name, part in {"": found, **found["definitions"]}.items():
        part.pop("title", None)
        if name not in complete:  # merged over a base: less may be stated, and null takes back
            required = part.pop("required", ())
            for key, value in part["properties"].items():
                part["properties"][key] = value if key in required else _nullable(value)
            _nullable(part)
    found["properties"] = {"base": {"type": "string", "description": BASE}, **found["properties"]}
    needed = {"if": {"required": ["base"]}, "else": _needed(cls)} if whole else {}
    head = {"$schema": "http://json-schema.org/draft-07/schema#", **found, "title": cls.__name__}
    return json.dumps(head | needed, indent=1, ensure_ascii=False)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Takes null, too, without a union around it: a fault is then shown where it is."""
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"]]
    for key, null in (("type", "null"), ("enum", None), ("anyOf", {"type": "null"})):
        if key in schema and null not in schema[key]:
            schema[key] = [*schema[key], null]
    return schema


def _stated_whole(schema: Any, inside: bool = False) -> set[str]:
    """Names of the definitions in lists and mappings: their parts are never merged over a base's."""
    if isinstance(schema, list):
        return {name for part in schema for name in _stated_whole(part, inside)}
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].rpartition("/")[2]} if inside and isinstance(schema.get("$ref"), str) else set()
    for key, part in schema.items():
        own |= _stated_whole(part, inside or key in ("items", "additionalProperties"))
    return own


def _needed(cls: type[Section]) -> dict[str, Any]:
    """The required keys of a recipe and of its sections."""
    inner = {
        name: _needed(section)
        for name, field in cls.model_fields.items()
        for section in members(field)
        if is_section(section)
    }
    required = [name for name, field in cls.model_fields.items() if field.is_required()]
    found = {"required": required} if required else {}
    properties = {name: {"type": "object"} | part if name in required else part for name, part in inner.items() if part}
    return found | ({"properties": properties} if properties else {})


if __name__ == "__main__":  # of a base that is shared by recipes of several stages
    print(json_schema(StageRecipe, whole=False))
