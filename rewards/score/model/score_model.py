"""The score model, after ScoreRS: a vision-language model, of a family that can, with one linear output as its head.

s = w · h, with h the last hidden state at the last real token (normally the newline after the answer's `<|im_end|>`),
w without bias and the output raw: sigmoid and tanh saturated, softplus was worse (arXiv 2503.00743).

Only that one token's state goes through the head; no logits over words are computed. Positions are computed again in
every forward pass from its inputs, nothing is kept between passes, so a score depends on the exchange alone. Padding
may stand on either side: the attention mask says which token is the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import initialization
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel

from rewards.score.model.exchange import Exchange, check_padding
from rewards.score.model.layout import RENAMED, check_keys, load_config, load_parts, resolve_positions, without_report
from rewards.score.model.passes import Features, passes, run
from rewards.score.model.prefixes import sharing
from vlm import families
from vlm.common.errors import RecipeError
from vlm.loading import as_trained, placed, quantized, resolve_attention, source
from vlm.prefix import Packed, pad_once
from vlm.prefix.rollout import evaluating
from vlm.weights import check_files, reading


class RewardHead(nn.Linear):
    """hidden → 1 without bias, multiplied in float32 whatever the weights' type: bfloat16 has 8 bits for a score."""

    def __init__(self, hidden: int):
        super().__init__(hidden, 1, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float())


class ScoreModel(PreTrainedModel):
    """Scores exchanges; the images always reach the model.

    Attributes:
        model: the backbone, vision tower included.
        reward_head: hidden → 1.
        processor: of `vlm.loading.load_processor`; from_pretrained sets it where the checkpoint has one.

    Overridden: `_init_weights`, `get_input_embeddings`, `save_pretrained` (the processor too), `from_pretrained`.
    """

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    input_modalities = ("image", "text")
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("past_key_values",)

    def __init__(self, config):
        super().__init__(config)
        self.processor: Any | None = None
        self.family = families.of(config)
        self.model = getattr(transformers, self.family.backbone)(config)
        self.reward_head = RewardHead(config.text_config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        """The backbone as transformers does; the head with standard deviation 1/√(hidden + 1), so that scores start
        near N(0, 1) (Stiennon et al. 2020, arXiv 2009.01325, appendix B)."""
        if isinstance(module, RewardHead):
            initialization.normal_(module.weight, std=(module.in_features + 1) ** -0.5)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    @classmethod
    def from_pretrained(
        cls,
        path,
        positions: str | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        attention: str = "auto",
        device: str | torch.device | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str | None = None,
        quantization: str | None = None,
    ) -> ScoreModel:
        """A trained score model, ours or the published layout, from a folder or a hub id.

        Args:
            positions: "mrope" or "sequential"; None takes what the checkpoint says, and "sequential" for a published
                one, which does not say.
            dtype: "float32", "bfloat16" or "float16"; None keeps the checkpoint's.
            attention: auto, flash_attention_2, sdpa or eager.
            min_pixels, max_pixels: per image, in place of the checkpoint's own.
            quantization: nf4, to be trained by adapters (`vlm.loading.quantized`).

        Raises: RecipeError for a missing checkpoint, another architecture, or tensors missing or without a place.
        """
        limits = (min_pixels, max_pixels)
        return cls._load(str(path), positions, dtype, attention, device, limits, revision, quantization, backbone=False)

    @classmethod
    def from_backbone(
        cls,
        path,
        positions: str = "mrope",
        *,
        seed: int = 0,
        dtype: str | torch.dtype | None = None,
        attention: str = "auto",
        device: str | torch.device | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str | None = None,
        quantization: str | None = None,
    ) -> ScoreModel:
        """An untrained score model: a vision-language checkpoint without its LM head, and a head drawn with `seed`."""
        limits = (min_pixels, max_pixels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls._load(
                str(path), positions, dtype, attention, device, limits, revision, quantization, backbone=True
            )

    @classmethod
    def _load(cls, path, positions, dtype, attention, device, limits, revision, quantization, backbone) -> ScoreModel:
        config = load_config(path, revision, resolve_positions(positions, path, revision))
        dtype = str(dtype or config.dtype or "float32").removeprefix("torch.")
        attention = resolve_attention(attention, dtype)
        name, where = source(path, revision)
        check_files(name, where, "score model")
        with reading(path, "score model"), without_report():
            model, info = super().from_pretrained(
                name,
                config=config,
                key_mapping=RENAMED,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_keys` names them
                **({} if backbone else placed(device)),  # a new head is drawn on the CPU, the same everywhere
                **quantized(quantization, dtype, families.of(config)),
                **where,
            )
        check_keys(info, path, backbone)
        # transformers would undo the renamings on saving, and Trainer resumes with plain names only.
        model._weight_conversions = None
        as_trained(model)
        pad_once(model)
        model.processor = load_parts(path, revision, *limits)
        if model.processor is not None:
            check_padding(model.processor.tokenizer)
        return model if device is None else model.to(device)

    def save_pretrained(self, path, is_main_process: bool = True, **kwargs) -> None:
        """Weights (safetensors), config.json with `positions`, and the processor where there is one."""
        super().save_pretrained(path, is_main_process=is_main_process, **kwargs)
        if is_main_process and self.processor is not None:
            self.processor.save_pretrained(path)

    def image_features(self, pixel_values: Tensor, image_grid_thw: Tensor) -> tuple[Tensor, ...]:
        """What the vision tower makes of pictures, one (visual tokens, width) per image, with all that the language
        model takes of it; `forward` takes them in place of pixels."""
        return tuple(self.family.features(self.model, {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw}))

    def position_ids(self, input_ids: Tensor, attention_mask: Tensor, image_grid_thw: Tensor | None) -> Tensor:
        """(3, B, L): rotary positions of each token on the axes time, height, width."""
        if self.config.positions == "mrope" and image_grid_thw is not None:
            positions, _ = self.model.get_rope_index(
                input_ids,
                mm_token_type_ids=(input_ids == self.config.image_token_id).int(),
                image_grid_thw=image_grid_thw,
                attention_mask=attention_mask,
            )
            return positions
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        image_index: Tensor | None = None,
        image_features: Sequence[Tensor] | None = None,
        mm_token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Scores of a batch, with gradients; `rewards.score.encode` makes the arguments.

        Args:
            input_ids, attention_mask: (B, L), padded on either side.
            pixel_values: (patches, …) of the images, row by row.
            image_grid_thw: (images, 3), in patches.
            image_index: (images,); with it the two above hold each picture once, and it says which one each image is.
            image_features: of `image_features()`, one per image, in place of `pixel_values`.
            mm_token_type_ids: of a stock processor; not needed (it follows from `input_ids`).

        Returns:
            `.logits`, (B, 1), float32, raw.

        Raises: ValueError where placeholders and images do not match: no image is ever left out in silence.
        """
        if image_features is None and pixel_values is not None:
            image_features = self.image_features(pixel_values, image_grid_thw)
        if image_index is not None:
            image_features = [image_features[place] for place in image_index.tolist()]
            image_grid_thw = image_grid_thw[image_index]
        if image_features is None:
            image_grid_thw = None
        hidden = self._hidden(
            input_ids,
            image_features,
            attention_mask=attention_mask,
            position_ids=self.position_ids(input_ids, attention_mask, image_grid_thw),
        )
        rows, places = (torch.arange(length, device=hidden.device) for length in hidden.shape[:2])
        last = (attention_mask.to(hidden.device) * places).argmax(-1)
        return SequenceClassifierOutput(logits=self.reward_head(hidden[rows, last]))

    def forward_packed(self, packed: Packed, image_features: Sequence[Tensor] | None = None) -> Tensor:
        """(N, 1) raw scores at the N kept tokens of a packed row, with gradients; `forward` gives the same of each
        exchange alone. The model takes packed rows once `rewards.score.model.prefixes.sharing` has said so.

        Args:
            image_features: of `image_features()`, one per image of the prefixes, in order.

        Raises: ValueError as `forward`.
        """
        inputs = packed.inputs
        return self.reward_head(self._hidden(inputs.pop("input_ids"), image_features, **inputs)[0])

    def _hidden(self, input_ids: Tensor, image_features: Sequence[Tensor] | None, **inputs: Any) -> Tensor:
        """The language model's last hidden states, (B, L, hidden)."""
        places = input_ids == self.config.image_token_id
        placeholders = int(places.sum())
        visual = sum(map(len, image_features or ()))
        if placeholders != visual:
            raise ValueError(
                f"{placeholders} image placeholders and {visual} visual tokens: some exchange would be scored blind; "
                "expected as many of one as of the other"
            )
        found = torch.cat(tuple(image_features)) if image_features else None
        return self.family.hidden(self.model, input_ids, found, **inputs)

    @torch.no_grad()
    def score(self, exchanges: Sequence[Exchange], batch_size: int = 16, share_prefix: bool = True) -> list[float]:
        """Raw scores in the exchanges' order; higher is better, only differences mean something.

        Exchanges about the same picture stand next to each other, and each picture is decoded and encoded once. Works
        in eval mode and gives every module its mode back.

        Args:
            batch_size: exchanges in one forward pass.
            share_prefix: what those of a pass about the same picture have in common goes through the language model
                once (`rewards.score.model.prefixes`); where the model cannot, and without, each is computed whole.

        Raises: DataError naming an image that cannot be read; RecipeError without a processor, or where pad = eos.
        """
        if self.processor is None:
            raise RecipeError("score model: no processor; set `.processor` (vlm.loading.load_processor)")
        scores = [0.0] * len(exchanges)
        features: Features = {}
        with evaluating(self):
            for one in passes(list(exchanges), self.processor, batch_size, sharing(self, share_prefix)):
                values, features = run(self, one, features)
                for row, value in zip(one.rows, values.tolist(), strict=True):
                    scores[row] = value
        return scores
