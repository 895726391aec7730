"""Processors: pixels against an independent computation, and what they save for stock transformers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from tests.support.tiny_checkpoints import picture, pixels, qwen2_5_vl, qwen2_vl
from vlm import loading
from vlm.common.errors import RecipeError

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return qwen2_vl(tmp_path_factory)


@pytest.fixture(scope="module")
def checkpoint_2_5(tmp_path_factory, checkpoint):
    return qwen2_5_vl(tmp_path_factory, checkpoint)


def expected_patches(image, low, high):
    """Qwen2-VL preprocessing written out from its paper and model card, with loops where transformers
    reshapes."""
    if image.mode == "RGBA":  # transparency shows white
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    width, height = image.size
    w, h = round(width / 28) * 28, round(height / 28) * 28
    if w * h > high:
        shrink = math.sqrt(width * height / high)
        w, h = max(28, int(width / shrink / 28) * 28), max(28, int(height / shrink / 28) * 28)
    elif w * h < low:
        grow = math.sqrt(low / (width * height))
        w, h = math.ceil(width * grow / 28) * 28, math.ceil(height * grow / 28) * 28
    values = np.asarray(image.resize((w, h), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    values = (values - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    rows = []
    for block_y in range(h // 28):
        for block_x in range(w // 28):
            for y, x in (
                (0, 0),
                (0, 1),
                (1, 0),
                (1, 1),
            ):  # the 2 × 2 patches that the merger joins stand together
                top, left = block_y * 28 + y * 14, block_x * 28 + x * 14
                patch = values[top : top + 14, left : left + 14]  # (14, 14, 3)
                # per channel: the patch twice, because the patch embedding spans two frames
                rows.append(np.concatenate([np.tile(patch[:, :, c].ravel(), 2) for c in range(3)]))
    return np.stack(rows), [1, h // 14, w // 14]


@pytest.mark.parametrize(
    ("size", "mode", "limits"),
    [
        ((100, 60), "RGB", (3136, 12544)),
        ((300, 200), "RGB", (3136, 12544)),
        ((30, 41), "RGBA", (3136, 12544)),
        ((64, 64), "L", (12544, 12544)),
        ((400, 33), "RGB", (784, 50176)),
    ],
)
def test_pixels_equal_an_independent_computation(checkpoint, size, mode, limits):
    processor = loading.load_processor(str(checkpoint), pixels(*limits))
    image = picture(*size, mode)
    out = processor(images=[image], text=["<|vision_start|><|image_pad|><|vision_end|>"], return_tensors="pt")
    rows, grid = expected_patches(image, *limits)
    assert out["image_grid_thw"].tolist() == [grid]
    np.testing.assert_allclose(out["pixel_values"].numpy(), rows, atol=2e-6)
    placeholders = (out["input_ids"] == processor.image_token_id).sum().item()
    assert placeholders == grid[1] * grid[2] // 4


def test_the_image_backend_never_depends_on_torchvision(checkpoint, monkeypatch):
    import transformers.utils.import_utils as utils
    from transformers.models.auto import image_processing_auto

    for module in (utils, image_processing_auto):
        monkeypatch.setattr(module, "is_torchvision_available", lambda: True)
    processor = loading.load_processor(str(checkpoint), pixels())
    assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessorPil"


def test_the_recipe_overrides_old_and_new_pixel_keys(checkpoint, tmp_path):
    """Hub checkpoints of 2024 say min_pixels and max_pixels at the top of preprocessor_config.json."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    template = (checkpoint / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    settings = {"min_pixels": 3136, "max_pixels": 12845056, "image_processor_type": "Qwen2VLImageProcessor"}
    settings |= {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = loading.load_processor(str(tmp_path), pixels(784, 1568))
    assert dict(processor.image_processor.size) == {"shortest_edge": 784, "longest_edge": 1568}
    assert processor.chat_template == template
    out = processor.image_processor(images=[picture(500, 500)], return_tensors="np")
    assert out["image_grid_thw"].tolist() == [[1, 2, 2]]  # 1568 px allow one 28-px block: sqrt(1568) = 39.6


@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_save_and_load_again_and_stock_names(family, request, tmp_path):
    folder = request.getfixturevalue(family)
    processor = loading.load_processor(str(folder), pixels(784, 12544))
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    again = loading.load_processor(str(tmp_path), pixels(784, 12544))
    image = picture(90, 120)
    first, second = (p.image_processor(images=[image], return_tensors="np") for p in (processor, again))
    np.testing.assert_array_equal(first["pixel_values"], second["pixel_values"])
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert again.chat_template == processor.chat_template

    stock = {"checkpoint": "Qwen2VLProcessor", "checkpoint_2_5": "Qwen2_5_VLProcessor"}[family]
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == stock
    assert saved["image_processor"]["image_processor_type"] == "Qwen2VLImageProcessor"
    assert saved["image_processor"]["size"] == {"shortest_edge": 784, "longest_edge": 12544}
    assert saved["video_processor"]["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["processor_class"] == stock
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in saved


def test_stock_transformers_reads_the_saved_image_processor_and_tokenizer(checkpoint, tmp_path):
    from transformers import AutoImageProcessor, AutoTokenizer

    processor = loading.load_processor(str(checkpoint), pixels(784, 12544))
    processor.save_pretrained(tmp_path)
    stock = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")  # torchvision's differs by a grey level
    image = picture(77, 99)
    ours = processor.image_processor(images=[image], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(stock(images=[image], return_tensors="np")["pixel_values"], ours, atol=1e-6)
    text = "<|im_start|>user\nWhere is the ship?<|im_end|>"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_videos_are_refused(checkpoint):
    processor = loading.load_processor(str(checkpoint), pixels())
    with pytest.raises(ValueError, match="images only"):
        processor(text=["<|video_pad|>"], videos=[np.zeros((2, 3, 28, 28), np.uint8)])


def test_pixel_limits_are_checked(checkpoint):
    with pytest.raises(RecipeError, match="min_pixels 9, max_pixels 8"):
        loading.load_processor(str(checkpoint), pixels(9, 8))


def test_a_processor_without_files(checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(RecipeError, match="lacks tokenizer or image-processor files"):
        loading.load_processor(str(tmp_path), pixels())
