"""The recipe's sections about an OpenAI-compatible endpoint, and about what may be spent there."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from vlm.common.errors import RecipeError
from vlm.common.section import Section

OWNED = ("model", "messages", "max_tokens", "max_completion_tokens", "stream", "n")
"""Fields of a request that are not for `request` to set."""


class EndpointSection(Section):
    """A model behind any OpenAI-compatible address."""

    called: ClassVar[str] = "endpoint"
    "The section's key in its recipe, as messages name it."
    MANNER: ClassVar[tuple[str, ...]] = (
        "address", "key", "limit_field", "concurrency", "timeout", "retries", "longest_wait", "stop_after",
    )  # fmt: skip
    "Keys that say how it is asked, not what: answers do not depend on them."

    address: str
    "Base address, up to the version: https://host/v1; requests go to {address}/chat/completions."
    model: str
    "The model's name there."
    key: str | None = None
    "NAME of the environment variable that holds the API key; null where none is asked for. Never the key itself."
    max_pixels: int = 1048576
    "Larger images are reduced to this many pixels (1024²) before they are sent."
    max_tokens: int = 1024
    "Longest reply."
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    "The request's field for it; reasoning models of OpenAI want the second."
    request: dict[str, Any] = {"temperature": 0}
    "Further fields of each request, e.g. {temperature: 0, response_format: {type: json_object}}."
    concurrency: int = 8
    "Requests in flight at a time."
    timeout: float = 120.0
    "Seconds to wait for a reply."
    retries: int = 5
    "Repetitions of a request after time-outs, refused connections and the statuses 408, 409, 429 and 5xx."
    longest_wait: float = 120.0
    "Longest wait before a repetition, in seconds; an endpoint that asks for more (Retry-After) ends the run."
    stop_after: int = 20
    "End the run after this many failed rows in a row: then the rows are not the cause."

    def check(self) -> None:
        if not re.fullmatch(r"https?://[^\s/]+(/[^\s?#]*)?", self.address):
            raise RecipeError(f"address = {self.address!r}; expected a base address such as https://host/v1")
        if "@" in self.address:  # it would be saved with the run; the message must not repeat it either
            raise RecipeError("address holds a user name or password; name an environment variable in `key` instead")
        if not self.model:
            raise RecipeError(f"model is empty; expected the name that the endpoint knows the {self.called} by")
        if self.key is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key):
            example = f"{self.called.upper()}_API_KEY"
            raise RecipeError(
                "key is not the name of an environment variable (capitals, digits, _); a key itself is never written "
                f"in a recipe: export it, e.g. as {example}, and write key: {example}"
            )
        least = {"max_pixels": 1, "max_tokens": 1, "concurrency": 1, "retries": 0, "stop_after": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise RecipeError(f"{name} = {getattr(self, name)}; expected at least {smallest}")
        if self.timeout <= 0 or self.longest_wait <= 0:
            raise RecipeError(f"timeout = {self.timeout} and longest_wait = {self.longest_wait}; expected seconds > 0")
        if owned := sorted(set(self.request) & set(OWNED)):
            raise RecipeError(f"request sets {', '.join(owned)}, which Nadir sets; leave it out")


class ServedSection(EndpointSection):
    """The model that `generation.backend: endpoint` asks, behind any OpenAI-compatible address."""

    request: dict[str, Any] = {}
    "Further fields of each request, e.g. {top_k: 50, repetition_penalty: 1.0} for a vLLM server."
    ELSEWHERE: ClassVar[dict[str, str]] = {"max_tokens": "generation.max_new_tokens", "max_pixels": "images.max_pixels"}
    "Keys of an endpoint that the recipe says elsewhere."

    def check(self) -> None:
        super().check()
        for key, place in self.ELSEWHERE.items():
            if getattr(self, key) != type(self).model_fields[key].default:  # a saved recipe has the default
                raise RecipeError(f"{key}: {place} says it; leave it out here")
        if said := sorted({"temperature", "top_p", "seed"} & self.request.keys()):
            raise RecipeError(f"request sets {', '.join(said)}, which `generation:` and `seed:` say; leave it out")


class CostSection(Section):
    """What asking is estimated to cost, printed before anything is sent."""

    input: float = 0.0
    "Price of a million input tokens, in any currency."
    output: float = 0.0
    "Price of a million output tokens."
    max_cost: float | None = None
    "Refuse to start where the estimate is above it, and stop where the reported use reaches it."
    pixels_per_token: int = 784
    "Pixels of an image that the model turns into one token: 28×28 for Qwen2-VL."
    characters_per_token: float = 4.0
    "Characters of English text to a token."

    def check(self) -> None:
        if min(self.input, self.output) < 0:
            raise RecipeError(f"input = {self.input}, output = {self.output}; expected prices of at least 0")
        if self.pixels_per_token < 1 or self.characters_per_token <= 0:
            raise RecipeError("pixels_per_token must be at least 1, and characters_per_token above 0")
        if self.max_cost is not None and not self.input + self.output:
            raise RecipeError("max_cost without prices limits nothing; state input and output, the prices of 1M tokens")
        if self.max_cost is not None and self.max_cost <= 0:
            raise RecipeError(f"max_cost = {self.max_cost}; expected more than 0, or null for no limit")
