"""Any other vision-language model of transformers: trained as TRL does, each prompt computed for each completion."""

from __future__ import annotations

from vlm.families.family import Family
from vlm.families.sight import Unknown
from vlm.families.sizes import UnknownSizes


class Other(Family):
    """Made for a `model_type` that has no file here. Its processor is the stock one, with its own settings."""

    positions = "1-D"
    towers = ("visual", "vision_tower", "vision_model")
    mergers = ("visual.merger", "multi_modal_projector", "connector")
    notation = "qwen2_vl"
    unshared = "the model has no file in vlm/families, so its prompts are computed for each completion, as TRL does"
    unmixed = (
        "the model has no file in vlm/families, and TRL tells whose pictures are whose by their number, which is right "
        "only where each row has some"
    )
    placeholder, shown, units = "", "", False

    def __init__(self, kind: str):
        self.kind = self.name = kind  # type: ignore[misc]

    def sight(self, config, least, most):
        return Unknown(least, most)

    def sizes(self, config, where):
        raise UnknownSizes(f"{where}: the sizes of {self.kind} are not known here; measure a step")

    @property
    def model_class(self):
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText
