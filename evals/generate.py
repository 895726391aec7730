"""Questions → completions, in batches, with any Qwen2-VL or Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from evals.recipe import GenerationSection
from samples import Sample
from vlm import prompts
from vlm.pictures.images import load
from vlm.sections import PromptSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def conversation(sample: Sample, section: PromptSection) -> list[dict[str, Any]]:
    """The prompt with its images decoded and placed before the text of the first user turn."""
    from trl.data_utils import prepare_multimodal_messages

    asked = prompts.prompt(sample, section.style, section.system, section.wording)
    return prepare_multimodal_messages(asked, images=[load(image) for image in sample.images])


def complete(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    prompt: PromptSection,
    how: GenerationSection,
) -> Iterator[tuple[Sample, str]]:
    """(sample, completion) in order. Image and video tokens are never generated; the text has no special tokens.

    Prompts of a batch are padded on the left, so a completion does not depend on its neighbours beyond rounding. A
    sample that stands several times in a batch, as in best-of-N, is prepared and prefilled once.
    """
    import torch

    from vlm.rollout import first_places, generate, row_numbers

    banned = [model.config.image_token_id, model.config.video_token_id]
    sampling = {"do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
    for start in range(0, len(samples), how.batch_size):
        batch = samples[start : start + how.batch_size]
        index = row_numbers([id(sample) for sample in batch])
        asked = [batch[row] for row in first_places(index)]
        inputs = processor.apply_chat_template(
            [conversation(sample, prompt) for sample in asked],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(model.device)
        with torch.inference_mode():
            tokens = generate(
                model,
                inputs,
                torch.tensor(index),
                max_new_tokens=how.max_new_tokens,
                suppress_tokens=banned,
                **(sampling if how.temperature > 0 else {"do_sample": False}),
            )
        texts = processor.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        yield from zip(batch, texts, strict=True)
