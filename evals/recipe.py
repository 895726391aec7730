"""What an evaluation recipe holds (`recipes/eval.yaml`)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from evals.benchmarks import find
from stage.endpoint.sections import CostSection, EndpointSection
from stage.planning import decoding
from stage.planning.decoding import BatchSize
from stage.recipe.decoding import DecodingSection
from stage.recipe.sections import StageRecipe
from vlm.common.errors import RecipeError, UserError


class GenerationSection(DecodingSection):
    """How answers are generated, greedily by default; the checkpoint's generation_config.json has no say."""

    batch_size: BatchSize = "auto"
    "Questions at a time; `auto`: as many as the memory holds, by the longest prompt, at most 256."
    backend: Literal["hf", "vllm", "endpoint"] = "hf"
    "What generates: transformers, in one process or many; vLLM (the extra `vllm`), in one; or a server (`endpoint:`)."
    tensor_parallel: int = 1
    "GPUs that vLLM splits the model over."

    def check(self) -> None:
        if self.tensor_parallel < 1 or (self.backend != "vllm" and self.tensor_parallel > 1):
            raise RecipeError(
                f"tensor_parallel = {self.tensor_parallel} with backend {self.backend}; it is for backend vllm, at "
                "least 1. With hf launch several processes: accelerate launch launch/eval.py …"
            )
        decoding.check(self.batch_size)
        super().check()


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


class EvalRecipe(StageRecipe):
    """Generate answers to held-out questions (`data.eval`) and score them.

    An interrupted evaluation is continued from what it wrote; a finished one is refused without `overwrite`.
    """

    first = (
        "stage output model.path data.eval.<n>.path data.eval.<n>.format data.eval.<n>.limit "
        "generation.max_new_tokens generation.batch_size gold prompt.style prompt.notation images.min_pixels "
        "images.max_pixels model.dtype model.attention generation.backend endpoint.address endpoint.model endpoint.key "
        "endpoint.concurrency cost.input cost.output cost.max_cost"
    )
    stage: Literal["eval"] = "eval"
    "Which launcher the recipe is for."
    generation: GenerationSection = GenerationSection()
    "How answers are generated."
    endpoint: ServedSection | None = None
    "Who is asked where generation.backend is endpoint; model.path is then a name, or the checkpoint if it is here."
    cost: CostSection = CostSection()
    "Prices of the endpoint, and a limit."
    inside: Literal["answer", "text"] = "answer"
    "Read the answer inside the one <answer> … </answer>, or take the whole completion (base models asked directly)."
    gold: str | None = None
    "Judge of rows without a closed answer (open_ended, caption): a reward as in `rewards:`, such as my.py:facts."
    benchmark: str | None = None
    "Score as this benchmark does (`launch/eval.py --list`), and put its questions together as it does."
    limit: int | None = None
    "Ask only the first N questions."
    gpus: str | None = None
    "Target of `--dry-run`, e.g. 8xA100-80G."
    pictures: int = 12
    "How many held-out scenes the picture grid shows; 0 for none."

    def check(self) -> None:
        if not self.data.eval:
            raise RecipeError("data.eval is empty; name at least one file, e.g. `eval: [{path: test.json}]`")
        self._check_backend()
        if self.benchmark is not None:
            try:
                find(self.benchmark)
            except UserError as error:
                raise RecipeError(f"benchmark: {error}") from error
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"limit = {self.limit}; expected at least 1, or null for all questions")
        if self.prompt.style == "direct" and self.inside == "answer":
            raise RecipeError(
                "prompt.style direct asks for no tags, but inside: answer reads only what is between them; "
                "write inside: text"
            )

    def _check_backend(self) -> None:
        how = self.generation
        if (how.backend == "endpoint") != (self.endpoint is not None):
            raise RecipeError(
                f"generation.backend is {how.backend}, and endpoint is {'not ' * (self.endpoint is None)}given; write "
                "both `generation: {backend: endpoint}` and `endpoint: {address: https://host/v1, model: NAME}`, or "
                "neither"
            )
        none = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        said = [f"{key} = {getattr(how, key)}" for key, off in none.items() if getattr(how, key) != off]
        if self.endpoint is not None and said:
            raise RecipeError(
                f"generation: {', '.join(said)}, for which the protocol of endpoints has no field; where this server "
                "knows it, write it in endpoint.request, and leave it out here"
            )
