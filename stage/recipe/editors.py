"""JSON schema of recipes, for editors that complete and check YAML: `launch/x.py --schema`, `recipes/schema/`."""

from __future__ import annotations

import json

from vlm.common.section import Section


def json_schema(cls: type[Section]) -> str:
    return json.dumps(cls.model_json_schema(), indent=1)
