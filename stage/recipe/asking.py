"""What the recipes of evaluation and best-of-N share: they ask a model questions, through any backend."""

from __future__ import annotations

from typing import Literal

from stage.endpoint.sections import CostSection, ServedSection
from stage.planning import decoding
from stage.planning.decoding import BatchSize
from stage.recipe.decoding import DecodingSection
from stage.recipe.sections import StageRecipe
from vlm.common.errors import RecipeError


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
                "least 1. With hf launch several processes: accelerate launch launch/eval.py … (or launch/bon.py)"
            )
        decoding.check(self.batch_size)
        super().check()


class AskingRecipe(StageRecipe):
    """A recipe whose model answers the questions of `data.eval`."""

    generation: GenerationSection = GenerationSection()
    "How answers are generated."
    endpoint: ServedSection | None = None
    "Who is asked where generation.backend is endpoint; model.path is then a name, or the checkpoint if it is here."
    cost: CostSection = CostSection()
    "Prices of the endpoint, and a limit."
    gpus: str | None = None
    "Target of `--dry-run`, e.g. 8xA100-80G."

    @property
    def named(self) -> tuple[str, ...]:
        return (self.model.path, *([] if self.endpoint is None else [self.endpoint.model]))

    def check(self) -> None:
        if not self.data.eval:
            raise RecipeError("data.eval is empty; name at least one file, e.g. `eval: [{path: test.json}]`")
        if self.model.quantization is not None:
            raise RecipeError(
                f"model.quantization {self.model.quantization}: it is for training; a trained adapter is asked "
                "merged, in model.dtype (python -m vlm.adapters ADAPTER OUT): write `quantization: null`"
            )
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
