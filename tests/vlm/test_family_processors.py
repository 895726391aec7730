"""Every family's processor: pixels against an independent computation and against transformers' with torchvision, what
its sight says of them, what it saves, what it refuses."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaConfig

from tests.support.families import KINDS
from tests.support.tiny_checkpoints import picture, pixels
from vlm import families, loading
from vlm.common import versions
from vlm.common.errors import RecipeError
from vlm.pictures.processing import images_only
from vlm.prefix import media
from vlm.prefix.pictures import Contents, remembering

pytestmark = pytest.mark.versions
LIMITS = (56 * 56, 112 * 112)
OURS = tuple(families.FAMILIES)
SIZES = [(100, 60), (300, 200), (30, 41), (61, 61), (400, 33), (20, 9), (1, 1)]
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
HALF = ([0.5] * 3, [0.5] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def smooth(width, height, seed=0):
    """Waves, edges and noise."""
    y, x = np.mgrid[:height, :width]
    waves = [110 + 60 * np.sin(x / (5 + n + seed)) + 40 * np.sign(np.cos(y / (8 + n))) for n in range(3)]
    noise = np.random.default_rng(seed).integers(0, 30, (height, width, 3))
    return Image.fromarray((np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def load(family_checkpoints):
    return lambda kind, *limits: loading.load_processor(family_checkpoints(kind), pixels(*(limits or LIMITS)))


def asked(processor, *images):
    text = [f"a {processor.image_token} b"] * len(images)
    return processor(images=[[image] for image in images], text=text, return_tensors="pt", padding=True)


# --- pixels by hand


def scaled(array, size, of):
    """(h, w, 3) in the units that the model sees, from uint8."""
    (mean, std), image = of, Image.fromarray(np.asarray(array, np.uint8))
    return (np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float64) / 255 - mean) / std


def patches(values, patch):
    """Rows of a grid: blocks of 2 × 2 patches, each patch twice for two frames, channel by channel."""
    height, width, _ = values.shape
    rows = []
    for top in range(0, height, 2 * patch):
        for left in range(0, width, 2 * patch):
            for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
                part = values[top + y * patch :, left + x * patch :][:patch, :patch]
                rows.append(np.concatenate([np.tile(part[:, :, channel].ravel(), 2) for channel in range(3)]))
    return np.stack(rows)


def qwen3_size(width, height, low, high):
    """Qwen3-VL: multiples of 32, area within the limits."""
    w, h = round(width / 32) * 32, round(height / 32) * 32
    if w * h > high:
        shrink = math.sqrt(width * height / high)
        return max(32, int(width / shrink / 32) * 32), max(32, int(height / shrink / 32) * 32)
    if w * h < low:
        grow = math.sqrt(low / (width * height))
        return math.ceil(width * grow / 32) * 32, math.ceil(height * grow / 32) * 32
    return w, h


def glm_size(width, height, low, high):
    """GLM-4.1V: sides below 28 are enlarged first; then two frames of multiples of 28 within twice the limits."""
    if min(width, height) < 28:
        scale = max(28 / width, 28 / height)
        width, height = int(width * scale), int(height * scale)
    w, h = round(width / 28) * 28, round(height / 28) * 28
    if 2 * w * h > 2 * high:
        shrink = math.sqrt(2 * width * height / (2 * high))
        return max(28, int(width / shrink / 28) * 28), max(28, int(height / shrink / 28) * 28)
    if 2 * w * h < 2 * low:
        grow = math.sqrt(2 * low / (2 * width * height))
        return math.ceil(width * grow / 28) * 28, math.ceil(height * grow / 28) * 28
    return w, h


@pytest.mark.parametrize(
    ("kind", "patch", "size_of", "units"),
    [("qwen3_vl", 16, qwen3_size, HALF), ("qwen3_5", 16, qwen3_size, HALF), ("glm4v", 14, glm_size, CLIP)],
)
def test_patches_equal_an_independent_computation(load, kind, patch, size_of, units):
    processor = load(kind)
    images = [smooth(*size) for size in SIZES]
    found = asked(processor, *images)
    sizes = [size_of(*size, *LIMITS) for size in SIZES]
    expected = [patches(scaled(image, size, units), patch) for image, size in zip(images, sizes, strict=True)]
    assert found["image_grid_thw"].tolist() == [[1, h // patch, w // patch] for w, h in sizes]
    np.testing.assert_allclose(found["pixel_values"].numpy(), np.concatenate(expected), atol=2e-6)
    counted = (found["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert counted == [w * h // (2 * patch) ** 2 for w, h in sizes]


def test_llava_pads_with_the_mean_colour_around_the_middle(load):
    processor, colour = load("llava"), [122, 116, 104]  # the means of CLIP times 255, cut off
    for size in SIZES:
        image, side = smooth(*size), max(size)
        square = np.full((side, side, 3), colour)
        left, top = (side - size[0]) // 2, (side - size[1]) // 2
        square[top : top + size[1], left : left + size[0]] = np.asarray(image)
        found = asked(processor, image)
        expected = scaled(square, (56, 56), CLIP)
        np.testing.assert_allclose(found["pixel_values"][0].numpy().transpose(1, 2, 0), expected, atol=2e-6)
        assert (found["input_ids"] == processor.image_token_id).sum() == 16


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((61, 61), (1, 1)),  # 2 × 2 is as square, and the picture has less than half its pixels
        ((80, 80), (2, 2)),  # 6,400 of 12,544: more than half
        ((100, 60), (2, 1)),  # 1.67: nearer to 2 than to 1
        ((300, 200), (2, 2)),  # 1.5 is as far from 1 as from 2; of those the most tiles, as the picture is large
        ((30, 41), (1, 2)),  # 0.73: 0.23 from 1/2, 0.27 from 1
        ((400, 33), (4, 1)),
        ((20, 90), (1, 4)),
        ((1, 1), (1, 1)),
    ],
)
def test_internvl_makes_tiles_row_by_row_and_the_whole(load, size, grid):
    processor, (columns, rows), image = load("internvl"), grid, smooth(*size)
    whole = scaled(image, (56 * columns, 56 * rows), IMAGENET)
    tiles = [whole[56 * r : 56 * r + 56, 56 * c : 56 * c + 56] for r in range(rows) for c in range(columns)]
    tiles += [scaled(image, (56, 56), IMAGENET)] if len(tiles) > 1 else []
    found = asked(processor, image)
    np.testing.assert_allclose(found["pixel_values"].numpy(), np.stack(tiles).transpose(0, 3, 1, 2), atol=2e-6)
    ids = found["input_ids"][0].tolist()
    start, end = processor.tokenizer.convert_tokens_to_ids(["<img>", "</img>"])
    at = ids.index(start)
    assert ids[at : at + 4 * len(tiles) + 2] == [start, *[processor.image_token_id] * (4 * len(tiles)), end]
    assert processor.sight.seen(size) == (56 * columns, 56 * rows) and processor.sight.grid(size) == grid


# --- what is said of them


@pytest.mark.parametrize("kind", OURS)
@given(st.data())
@settings(max_examples=25)
def test_sight_says_what_the_processor_makes(family_checkpoints, kind, data):
    """Sizes and limits drawn; strips included."""
    least = data.draw(st.integers(1, 20))
    limits = 56**2 * least, 56**2 * (least + data.draw(st.integers(0, 30)))
    size = data.draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    config = loading.raw_config(family_checkpoints(kind))
    sight = families.FAMILIES[kind].sight(config, *limits)
    made = processors(kind, family_checkpoints(kind))
    image_processor = type(made.image_processor)(**made.family.settings(made.image_processor.to_dict(), sight))
    assert made.family.limits(image_processor) == (limits if kind not in ("llava", "internvl") else told(kind, sight))
    try:
        found = image_processor([Image.new("RGB", size)], return_tensors="pt")
    except ValueError:  # too thin
        with pytest.raises(ValueError, match="aspect ratios"):
            sight.tokens(size)
        return
    units = made.family.unit_tokens(found, model_config(kind, family_checkpoints(kind)))
    assert sight.tokens(size) == sum(units)
    low, high = sight.bounds()
    if kind in ("llava", "internvl"):
        assert low <= sum(units) <= high
    elif limits[1] >= 4 * limits[0] and max(size) <= 4 * min(size) and limits[0] >= 4 * sight.side**2:
        assert low <= sum(units) <= high
        assert math.prod(sight.seen(size)) == sum(units) * sight.side**2
    if kind == "internvl":
        expected = image_processor.get_number_of_image_patches(size[1], size[0])
        assert sight.tiles(size) == expected == len(found["pixel_values"])


def told(kind, sight):
    """(fewest, most) pixels that say the same."""
    return (56**2, 56**2) if kind == "llava" else tuple(tiles * 56**2 for tiles in sight.limits)


@pytest.fixture(scope="module", autouse=True)
def _forgotten():
    yield
    processors.made.clear()


def processors(kind, folder):
    if kind not in processors.made:
        processors.made[kind] = loading.load_processor(folder, pixels(*LIMITS))
    return processors.made[kind]


processors.made = {}


def model_config(kind, folder):
    from transformers import AutoConfig

    if ("config", kind) not in processors.made:
        processors.made["config", kind] = AutoConfig.from_pretrained(folder)
    return processors.made["config", kind]


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 12), st.integers(0, 24))
def test_tiles_are_transformers(width, height, least, more):
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    sight = families.sight.Tiles(448, 256, least * 448**2, (least + more) * 448**2)
    found = get_optimal_tiled_canvas((height, width), (448, 448), least, least + more)
    assert sight.grid((width, height)) == tuple(found)
    low, high = sight.bounds()
    assert low <= sight.tokens((width, height)) <= high


# --- transformers' own


def backend():
    """torchvision is in the environment of `make test-oldest` alone, and has to be there."""
    return versions.minor(version("transformers")) == versions.SEEN[0]


def stock(folder, processor, target):
    """AutoProcessor of what ours saves."""
    from transformers import AutoProcessor

    processor.save_pretrained(target)
    shutil.copy(f"{folder}/config.json", target)
    return AutoProcessor.from_pretrained(target)


@pytest.mark.parametrize("kind", OURS)
def test_what_is_saved_is_stock(kind, load, family_checkpoints, tmp_path):
    processor, family = load(kind), families.FAMILIES[kind]
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert "Pil" not in json.dumps(saved) and "auto_map" not in saved and not list(tmp_path.glob("*.py"))
    assert saved["processor_class"] == family.processor.split(":")[1]
    assert saved["image_processor"]["image_processor_type"] == family.image_processor.split(":")[1].removesuffix("Pil")
    assert saved.get("video_processor", {}).get("video_processor_type") == family.video_processor
    if kind == "llava":
        assert saved["image_processor"]["do_pad"] is True and saved["num_additional_image_tokens"] == 1
    if kind == "internvl":
        assert saved["image_processor"]["crop_to_patches"] is True and saved["image_seq_length"] == 4
    shutil.copy(f"{family_checkpoints(kind)}/config.json", tmp_path)
    limits = loading.stored_limits(str(tmp_path))
    again = loading.load_processor(str(tmp_path), limits)
    images = [smooth(*size) for size in SIZES[:3]]
    first, second = asked(processor, *images), asked(again, *images)
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    assert again.chat_template == processor.chat_template and again.sight == processor.sight or kind == "llava"
    if backend():
        theirs = stock(family_checkpoints(kind), processor, tmp_path / "stock")
        assert "Torchvision" in str(type(theirs.image_processor).__mro__)
        close(processor, theirs, first, images)
        published(kind, family_checkpoints(kind), load, images)


def close(processor, theirs, ours, images):
    """Same ids and grids; pixels within one grey level on 99%."""
    found = theirs(
        images=[[image] for image in images],
        text=[f"a {processor.image_token} b"] * len(images),
        return_tensors="pt",
        padding=True,
    )
    assert found.keys() == ours.keys()
    assert all(found[name].equal(ours[name]) for name in ours if name != "pixel_values")
    apart = (found["pixel_values"] - ours["pixel_values"]).abs().numpy()
    deviation = np.array(processor.image_processor.image_std)
    shape = (1, 3, 1) if apart.ndim == 2 else (1, 3, 1, 1)
    apart = (apart.reshape(len(apart), 3, -1) if apart.ndim == 2 else apart) * deviation.reshape(shape)
    assert (apart <= 1.001 / 255).mean() >= 0.99
    assert apart.mean() < 0.1 / 255


def published(kind, folder, load, images):
    """The files as they are, with their own limits; LLaVA's said to pad."""
    from transformers import AutoProcessor

    ours = loading.load_processor(folder, loading.stored_limits(folder))
    if kind == "llava":
        from transformers import LlavaImageProcessor

        theirs = AutoProcessor.from_pretrained(folder)
        theirs.image_processor = LlavaImageProcessor.from_pretrained(folder, do_pad=True)
    else:
        theirs = AutoProcessor.from_pretrained(folder)
    close(ours, theirs, asked(ours, *images), images)


# --- rows, modes, processes


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_and_without_pictures(kind, load):
    """Two pictures, none, one, of three modes: each row as if alone."""
    processor = load(kind)
    rows = [[picture(90, 50, "RGBA"), picture(40, 44, "L")], [], [smooth(50, 200)]]
    if kind not in OURS:
        rows = [[image.convert("RGB") for image in row] for row in rows if row]  # its own processor takes no other
    text = [f"{processor.image_token} and " * len(row) + "what?" for row in rows]
    found = processor(images=rows, text=text, return_tensors="pt", padding=True)
    alone = [
        processor(images=row or None, text=[one], return_tensors="pt") for row, one in zip(rows, text, strict=True)
    ]
    for number, one in enumerate(alone):
        mask = found["attention_mask"][number].bool()
        assert found["input_ids"][number][mask].tolist() == one["input_ids"][0].tolist()
    if kind in OURS:
        together = [one["pixel_values"] for one in alone if "pixel_values" in one]
        assert found["pixel_values"].tolist() == [row for part in together for row in part.tolist()]
        for row, one in zip(rows, alone, strict=True):
            counted = (one["input_ids"] == processor.image_token_id).sum().item()
            assert counted == sum(processor.sight.tokens(image.size) for image in row)


@pytest.mark.parametrize("kind", OURS)
def test_a_processor_goes_to_another_process(kind, load):
    processor = load(kind)
    again = pickle.loads(pickle.dumps(processor))
    assert type(again) is type(processor) and again.sight == processor.sight and again.family is processor.family
    image = smooth(100, 60)
    assert asked(again, image)["pixel_values"].equal(asked(processor, image)["pixel_values"])


# --- what is refused


@pytest.mark.parametrize("kind", OURS)
def test_a_tokenizer_without_the_placeholder_is_refused_by_name(kind, load):
    processor = load(kind)
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>")
    with pytest.raises(RecipeError, match=f"no {processor.family.placeholder} token; .* {processor.family.name}"):
        images_only(processor.family)(processor.image_processor, tokenizer)


@pytest.mark.parametrize("kind", OURS)
def test_limits_that_cannot_be(kind, load):
    if kind == "llava":
        assert load(kind, 9, 8).sight.bounds() == (16, 16)  # they have no say
        return
    with pytest.raises(RecipeError, match=r"min_pixels 9000 and max_pixels 8000"):
        load(kind, 9000, 8000)
    if kind == "internvl":
        assert load(kind, 1, 2).sight.limits == (1, 1)  # a tile is the least there is
        return
    with pytest.raises(RecipeError, match=r"max_pixels = 500 is less than one visual token"):
        load(kind, 100, 500)


# --- published files, as they come


@pytest.fixture
def copied(family_checkpoints, tmp_path):
    """kind → a folder of links to its checkpoint, for files to be changed in."""

    def copy(kind):
        return shutil.copytree(family_checkpoints(kind), tmp_path / kind, symlinks=True)

    return copy


def changed(file, **keys):
    found = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in {**found, **keys}.items() if value is not None}))


@pytest.mark.parametrize("kind", ["llava", "internvl"])
def test_older_repositories_have_no_processor_config(kind, load, copied):
    """What it would say follows from config.json."""
    folder, image = copied(kind), smooth(100, 60)
    (folder / "processor_config.json").unlink()
    found = asked(loading.load_processor(str(folder), pixels(*LIMITS)), image)
    expected = asked(load(kind), image)
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("kind", "said", "meant", "tokens"),
    [
        ("llava", {"patch_size": 7}, {"vision_feature_select_strategy": "full"}, 17),
        ("internvl", {"image_seq_length": 9}, {}, 4),
    ],
)
def test_the_config_says_how_many_tokens_a_picture_has(kind, said, meant, tokens, copied):
    """And not a processor_config.json that was left behind: the model would stop on the first picture."""
    folder = copied(kind)
    changed(folder / "processor_config.json", **said)
    changed(folder / "config.json", **meant)
    processor = loading.load_processor(str(folder), pixels(56 * 56, 56 * 56))
    ids = asked(processor, smooth(60, 60))["input_ids"]
    assert (ids == processor.image_token_id).sum() == tokens == processor.sight.tokens((60, 60))


def test_a_llava_with_another_tower_is_another_model(family_checkpoints):
    """Pixtral's model_type is llava, too."""
    config = loading.raw_config(family_checkpoints("llava"))
    for kind, known in [("clip_vision_model", True), ("pixtral", False), ("siglip_vision_model", False)]:
        made = {**config, "vision_config": {**config["vision_config"], "model_type": kind}}
        found = families.of(made)
        assert found.units == known and found.kind.startswith("llava") and families.of(LlavaConfig(**made)) is found
    assert families.of({"model_type": "llava"}).units  # CLIP's, which a config without a section means


def test_a_checkpoint_that_says_not_to_pad_is_heard(copied, capsys):
    folder, image = copied("llava"), smooth(112, 56)
    changed(folder / "preprocessor_config.json", do_pad=False)
    processor = loading.load_processor(str(folder), pixels(*LIMITS))
    assert "do_pad: false" in capsys.readouterr().err
    middle = np.asarray(image)[:, 28:84]
    found = asked(processor, image)["pixel_values"][0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(found, scaled(middle, (56, 56), CLIP), atol=2e-6)
    given = processor.family.handed(image, processor)
    assert np.array_equal(np.asarray(given), middle)


NAMED = [{"name": "default", "template": "{{ 'D' }}"}, {"name": "tool_use", "template": "{{ 'T' }}"}]


@pytest.mark.parametrize("where", ["chat_template.json", "chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["qwen3_vl", "llava", "internvl"])
def test_a_chat_template_stands_in_any_of_three_files(kind, where, load, copied):
    folder = copied(kind)
    template = load(kind).tokenizer.chat_template if kind == "qwen3_vl" else None
    for name in ("chat_template.json", "chat_template.jinja"):
        if (file := folder / name).exists():
            text = file.read_text()
            template = json.loads(text)["chat_template"] if name.endswith("json") else text
            file.unlink()
    changed(folder / "tokenizer_config.json", chat_template=template if where.startswith("tok") else None)
    if where == "chat_template.json":
        (folder / where).write_text(json.dumps({"chat_template": template}))
    elif where == "chat_template.jinja":
        (folder / where).write_text(template)
    processor = loading.load_processor(str(folder), pixels(*LIMITS))
    assert processor.chat_template == load(kind).chat_template == processor.family.template(template)


def test_named_templates(copied):
    """The published default of several; the one named so is taken, as `apply_chat_template` does."""
    folder = copied("qwen3_vl")
    (folder / "chat_template.json").unlink()
    changed(folder / "tokenizer_config.json", chat_template=NAMED)
    processor = loading.load_processor(str(folder), pixels(*LIMITS))
    assert processor.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "D"
    processor.save_pretrained(folder / "again")


# --- each picture once (`vlm.prefix.pictures`)


def stock_internvl(processor, monkeypatch):
    """What a user brings who has torchvision: transformers' own `__call__`, which cuts `pixel_values` picture by
    picture, by numbers of tiles of all of them."""
    monkeypatch.setattr(type(processor.family), "bases", families.Family.bases)
    brought = images_only.__wrapped__(processor.family)
    assert "num_patches" not in brought.unused_input_names.fget(processor)
    return brought(processor.image_processor, processor.tokenizer, processor.chat_template, image_seq_length=4)


@pytest.mark.parametrize("kind", [*OURS, "stock"])
def test_pictures_that_are_there_once(kind, load, monkeypatch):
    processor = load(kind if kind in OURS else "internvl")
    if kind not in OURS:
        processor = stock_internvl(processor, monkeypatch)
    one, other = smooth(100, 60), smooth(61, 61, 3)
    rows = [[one], [one.copy()], [], [other], [other, one]]
    text = [f"{processor.image_token} and " * len(row) for row in rows]
    plain = processor(images=[row for row in rows if row], text=text, return_tensors="pt", padding=True)
    with remembering(processor, Contents()) as memo:
        found = processor(images=rows, text=text, return_tensors="pt", padding=True)
    assert memo.order == [0, 0, 1, 1, 0] and found.keys() == plain.keys()
    assert all(found[name].equal(plain[name]) for name in plain if name != "pixel_values")
    each = [found["pixel_values"][first:end] for first, end in bounds_of(found, memo)]
    again = [each[number] for number in memo.order]
    assert torch.cat(again).equal(plain["pixel_values"]) and len(found["pixel_values"]) == sum(map(len, each))
    assert asked(processor, one)["input_ids"].shape == asked(processor, other.resize(one.size))["input_ids"].shape


def bounds_of(found, memo):
    """First and last row of each picture's pixels."""
    ends = [0, *itertools.accumulate(media.rows(found))]
    if "image_grid_thw" in found:  # of every picture; these are of the first ones
        ends = [0, *itertools.accumulate(media.rows(found)[memo.order.index(number)] for number in (0, 1))]
    return [(ends[units[0]], ends[units[-1] + 1]) for units in memo.units]
