"""`training:` in a recipe: the keys of TRL's argument classes with their types, without importing torch or TRL.

`arguments.json` holds what the classes say: types, enumerations, defaults and help. It is made from them by

    python -m stage.recipe.stored

and a test holds it equal to the installed versions. What their annotations do not say is in `stage.recipe.ranges`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan, Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from stage.recipe.ranges import RANGES
from stage.recipe.schema import did_you_mean
from vlm.common.section import Section

STORED = Path(__file__).with_name("arguments.json")
KINDS = {
    "integer": int, "number": float, "boolean": bool, "string": str, "null": None,
    "array": list[str], "object": dict[str, Any],
}  # fmt: skip
LIMITS = {"minimum": Ge, "exclusiveMinimum": Gt, "maximum": Le, "exclusiveMaximum": Lt}
_NO_UPLOAD = "nothing (a run never uploads; use `hf upload`)"
_NO_SCRIPT = "nothing (for scripts of transformers; a launcher does what its recipe says)"
OWNED = {
    "output_dir": "output",
    "seed": "seed",
    "data_seed": "seed",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "deepspeed": "sharding.zero",
    "fsdp": "sharding.zero",
    "report_to": "tracking.report_to",
    "run_name": "tracking.name",
    "project": "tracking.project",
    "model_init_kwargs": "model",
    "use_liger_kernel": "model.liger",
    "trust_remote_code": "model.trust_remote_code",
    "resume_from_checkpoint": "resume",
    # newer names of the same: one is enough for the plan, and transformers 5.17 knows the older
    "activation_checkpointing": "training.gradient_checkpointing",
    "activation_checkpointing_kwargs": "training.gradient_checkpointing_kwargs",
    "disable_tqdm": "nothing (the progress bar adapts itself)",
    "remove_unused_columns": "nothing (reward functions need the columns)",
    "local_rank": "nothing (the launcher knows it)",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _NO_SCRIPT),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push"), _NO_UPLOAD),
    **dict.fromkeys(("hub_revision", "log_completions_hub_repo"), _NO_UPLOAD),
}
"""Key of TRL's configuration → the recipe key that sets it, in every stage."""
OURS = {"logging_steps": 1, "save_strategy": "no", "ddp_timeout": 3600}
"""Defaults of every stage that are not TRL's. An hour: NCCL ends the process then, and the watchdog speaks before."""


@functools.cache
def stored() -> dict[str, dict[str, dict[str, Any]]]:
    """Class name → key → JSON schema with `default` and `description`; `shared` are the keys equal in all classes."""
    return json.loads(STORED.read_text(encoding="utf-8"))


class Keys(Section):
    """A mapping whose keys a library defines: `Annotated[dict[str, Any], A_SUBCLASS]` is a dict of the keys given."""

    library: ClassVar[str] = ""
    "The library's class, for messages."
    owned: ClassVar[dict[str, str]] = {}
    "Keys that Nadir sets → the recipe key for each."
    ours: ClassVar[dict[str, Any]] = {}
    "Defaults that are not the library's."

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if source is cls:
            return handler(source)
        return core_schema.no_info_after_validator_function(
            lambda found: found.model_dump(exclude_unset=True),
            handler.generate_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )

    @classmethod
    def summary(cls) -> str:
        return f"a mapping of fields of {cls.library}"

    @classmethod
    def refusal(cls, key: str) -> str:
        above, _, name = key.rpartition(".")
        if name in cls.owned:
            owner = cls.owned[name]
            return f"`{key}` is set by Nadir; write {owner if owner.startswith('nothing') else f'`{owner}` instead'}"
        near = did_you_mean(name, list(cls.model_fields), above)
        return f"unknown key `{key}`; `{above}` holds fields of {cls.library}{near}"


def arguments(name: str, owned: Mapping[str, str], **ours: Any) -> type[Keys]:
    """The keys of TRL's class `name` as a model.

    owned: keys that Nadir sets in this stage, besides `OWNED` → the recipe key for each. ours: defaults of this stage,
    besides `OURS`, that are not TRL's.
    """
    owned, ours = {**OWNED, **owned}, {**OURS, **ours}
    fields: dict[str, Any] = {}
    for key, schema in (stored()["shared"] | stored()[name]).items():
        if key not in owned:
            narrowed = {**schema, **RANGES.get(f"{name}.{key}", RANGES.get(key, {}))}
            default = ours.get(key, schema["default"])
            fields[key] = annotation(narrowed), Field(default=default, description=schema["description"])
    model = create_model(name, __base__=Keys, **fields)
    model.library, model.owned, model.ours = f"trl.{name}", owned, ours
    return model


def annotation(schema: Mapping[str, Any]) -> Any:
    """The Python type of a JSON schema: of `type` (a name or a list), `enum`, `anyOf` and limits of numbers."""
    if "anyOf" in schema:
        return Union[tuple(annotation(one) for one in schema["anyOf"])]  # noqa: UP007
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    parts: list[Any] = [Literal[tuple(schema["enum"])]] if "enum" in schema else []
    limits = [LIMITS[key](value) for key, value in schema.items() if key in LIMITS]
    for kind in kinds:
        extra = [
            *(limits if kind in ("integer", "number") else ()),
            *([AllowInfNan(False)] if kind == "number" else ()),
        ]
        parts.append(Annotated[KINDS[kind], *extra] if extra else KINDS[kind])
    return Union[tuple(parts)]  # noqa: UP007
