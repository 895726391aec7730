"""What differs between model families, as one object each; a new one is a file that describes its own.

Reading a family costs nothing: torch and transformers are imported where a method needs them. Nothing outside of this
folder asks for a model's type.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlm.families.sight import Sight
from vlm.families.sizes import Architecture, Layer

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn


class Family:
    """A kind of vision-language model. What is not said here is as most have it."""

    kind: ClassVar[str]
    "The config's `model_type`."
    name: ClassVar[str]
    "As people say it."
    model: ClassVar[str]
    "Its class in transformers."
    backbone: ClassVar[str | None] = None
    "The class without LM head that can carry a score head; None where none was ever tried."
    processor: ClassVar[str]
    "Stock processor, `module:class`; ours is a subclass that takes images only (`vlm.pictures.processing`)."
    image_processor: ClassVar[str]
    "Stock image processor on Pillow, `module:class`."
    video_processor: ClassVar[str | None] = None
    "Type of the stock video processor, which a saved folder names, so that AutoProcessor reads it."
    placeholder: ClassVar[str]
    "Token that stands for a visual token; a chat template writes one for each picture."
    depth: ClassVar[bool] = False
    "Whether its config.json calls the blocks of the vision tower `depth` (`vlm.common.versions.check_config`)."
    unsayable: ClassVar[tuple[str, ...]] = ()
    "Further tokens that a text may never hold, beside the placeholders that the config names."
    positions: ClassVar[Literal["1-D", "M-RoPE", "interleaved M-RoPE"]] = "M-RoPE"
    "Rotary positions; 1-D counts tokens, the others (time, height, width)."
    towers: ClassVar[tuple[str, ...]] = ("visual",)
    "Modules that see, by name below `model.`"
    mergers: ClassVar[tuple[str, ...]] = ("visual.merger",)
    "Modules that project what is seen into the language model's space; they may lie within a tower."
    linears: ClassVar[tuple[str, ...]] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    "Linear layers of the language model, which LoRA adapts where nothing else is said."
    notation: ClassVar[str]
    "How it writes boxes, a name of `vlm.boxes.NOTATIONS`, which says the frame."
    units: ClassVar[bool] = True
    "Whether the pictures of a batch can be told apart (`vlm.prefix.media`)."
    reordered: ClassVar[bool] = False
    "Whether queries lie in memory head by head, so that kernels of attention leave a second copy of their output."
    unshared: ClassVar[str | None] = None
    "Why its prompts cannot be shared; None where they can."
    exported: ClassVar[bool] = False
    "Whether `vlm.export` writes it as transformers 4 loads it."
    unmixed: ClassVar[str | None] = None
    "Why GRPO cannot take rows with pictures and rows without from one data set; None where it can."
    vllm: ClassVar[bool] = False
    "Whether what vLLM reads has been compared with what is meant (`vlm.pictures.engine`)."
    frame: ClassVar[tuple[str, ...]] = ()
    "Tokens that its processor writes before and behind the placeholders of a picture."
    shown: ClassVar[str]
    "What the chat template writes for a picture, where the text has it."
    built_of: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    "Section of the config → the `model_type` that it may have; with another one the model is taken as any other."
    known: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    "Published sizes by name, as config.json has them; what counts no parameters is left out."
    pattern: ClassVar[str | None] = None
    "Regular expression, lower case, of paths that mean one of them; its group `size` ends the name."

    # what it sees

    def sight(self, config: Mapping[str, Any], least: int, most: int) -> Sight:
        """What it sees of pictures under these limits. config: the whole model's, as in config.json.

        Raises: RecipeError for limits that it cannot have.
        """
        raise NotImplementedError

    def settings(self, stored: Mapping[str, Any], sight: Sight) -> dict[str, Any]:
        """Keywords of the image processor from preprocessor_config.json (`stored`), for what shall be seen."""
        raise NotImplementedError

    def limits(self, processor: Any) -> tuple[int, int]:
        """(fewest, most) pixels that an image processor resizes pictures to; the other way round."""
        raise NotImplementedError

    def handed(self, picture: Image, processor: Any) -> Image:
        """A picture (RGB) as vLLM gets it, so that its processor makes the pixels that `processor` makes."""
        raise NotImplementedError

    def as_it_is(self, sight: Sight) -> dict[str, Any]:
        """vLLM's `mm_processor_kwargs` under which its processor does so."""
        raise NotImplementedError

    def keywords(self, settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """Further keywords of the processor. settings: of processor_config.json; config: of config.json."""
        return {}

    def bases(self, processor: type) -> tuple[type, ...]:
        """The bases of our processor: the stock one, and before it what mends it for pictures alone."""
        return (processor,)

    def template(self, template: str | None) -> str | None:
        """The chat template to work with, from the checkpoint's: mended where the published one is wrong."""
        return template

    def marked(self, template: str) -> str | None:
        """The template with marks around what the assistant says, `{% generation %}`, for training; None of one that
        is not the published one."""
        return None

    def sent(self, name: str, weight: Tensor) -> tuple[str, Tensor]:
        """A parameter as vLLM's model takes it, which reads published files: transformers may hold another form."""
        return name, weight

    def tied(self, config: Mapping[str, Any]) -> bool | None:
        """Whether the head is the embedding, of config.json, where transformers' class takes another key for it; else
        None."""
        return None

    # its sizes

    def sizes(self, config: Mapping[str, Any], where: str) -> Architecture:
        """The sizes in a config.json. where: names it in messages. Raises: RecipeError naming the key."""
        raise NotImplementedError

    def layers(self, sizes: Architecture) -> Iterator[Layer]:
        """Every module that holds parameters; `lm_head`, last, also where it is tied to `embed_tokens`."""
        raise NotImplementedError

    # bytes that training keeps for the backward pass, where a number has b of them

    def norm_bytes(self, sizes: Architecture, b: int) -> int:
        """Of one token in the norms of one decoder layer. Two RMSNorms: float32 input, normalised value, scaled value
        (the input of the next linears). Norms of queries and keys: the first two of these."""
        normed = (4 + b) * (sizes.query + sizes.key_value) if sizes.text.normed else 0
        return 2 * (4 + 2 * b) * sizes.hidden + normed

    def mlp_bytes(self, sizes: Architecture, b: int) -> int:
        """Of one token in the MLP of one decoder layer: gate, silu(gate), up, product."""
        return 4 * b * sizes.intermediate

    def mlp_alive(self, sizes: Architecture) -> int:
        """Numbers of one token that are there at a time in such an MLP, or as many gradients: gate, up, product."""
        return 3 * sizes.intermediate

    def score_bytes(self, b: int) -> int:
        """Of a pair of patches in one head of the tower under `eager`: float32 softmax and its 16-bit cast."""
        return 4 + (b if b < 4 else 0)

    def block_bytes(self, sizes: Architecture, b: int, attention: str) -> int:
        """Of one patch in one block of the vision tower, scores aside."""
        raise NotImplementedError

    def merger_bytes(self, sizes: Architecture, b: int) -> int:
        """Of one visual token around the blocks of the tower: pixels, merger, and its output."""
        raise NotImplementedError

    # the model at work

    def placeholders(self, config: Any) -> list[int]:
        """Ids that only a processor may write: sampled, they would claim a picture. config: the model's."""
        names = ("image_token_id", "video_token_id", "audio_token_id")
        return sorted({found for name in names if type(found := getattr(config, name, None)) is int})

    def unit_tokens(self, media: Mapping[str, Tensor], config: Any) -> list[int]:
        """Visual tokens of each unit of `pixel_values` (`vlm.prefix.media`): a picture, or a tile of one."""
        raise NotImplementedError

    def joined(self, config: Any) -> int:
        """Patches that the merger makes one visual token of."""
        return 1

    def patches(self, media: Mapping[str, Tensor], config: Any) -> int:
        """Patches that go through the vision tower."""
        raise NotImplementedError

    def blank(self, config: Any) -> tuple[dict[str, Tensor], int]:
        """Keywords of a black picture, the smallest there is, and its number of visual tokens."""
        raise NotImplementedError

    def features(self, model: nn.Module, media: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """(visual tokens, width) of each unit: what the vision tower makes of it. width: of all that the language model
        takes of a token, side by side. model: the backbone."""
        raise NotImplementedError

    def hidden(self, model: nn.Module, ids: Tensor, features: Tensor | None, **inputs: Any) -> Tensor:
        """(B, L, hidden) last hidden states of the language model. features: of all placeholders in `ids` (B, L), in
        order; inputs: position_ids, attention_mask and the like. model: the backbone."""
        raise NotImplementedError

    def settle(self, model: nn.Module) -> None:
        """What is done to a model once it is loaded."""

    def class_of(self, path: str) -> Any:
        """`module:class` below transformers, imported."""
        module, _, name = path.partition(":")
        return getattr(importlib.import_module(f"transformers.{module}"), name)

    @property
    def model_class(self) -> Any:
        return getattr(importlib.import_module("transformers"), self.model)
