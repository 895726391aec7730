"""What the doctor measures, against values by hand and independent computations."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from samples import Faults, read
from samples.doctor import leaks
from samples.doctor.brightness import tone
from samples.doctor.examine import examine
from samples.doctor.gallery import Gallery, Look
from samples.doctor.report import SourceCounts
from samples.doctor.subject import Ruler, Subject, subject
from samples.sections import DataSection, SourceSection
from stage.recipe import config
from tests.support.doctored import asked, put_data, texture
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump
from vlm.families.sight import Grid
from vlm.pictures.digests import BITS, perceptual_hash
from vlm.pictures.images import load
from vlm.pictures.resizing import Resizing
from vlm.sections import ImageSection, PromptSection


def test_hashes_survive_compression_and_tell_pictures_apart():
    hashes = []
    for seed in range(20):
        picture = texture(seed, (256, 256))
        hashes.append(perceptual_hash(picture))
        file = io.BytesIO()
        picture.resize((128, 128)).save(file, "JPEG", quality=60)
        for changed in (Image.open(file), ImageEnhance.Brightness(picture).enhance(0.9)):
            assert (perceptual_hash(changed) != hashes[-1]).sum() <= leaks.NEAR
    apart = [(a != b).sum() for n, a in enumerate(hashes) for b in hashes[:n]]
    assert min(apart) > 2 * leaks.NEAR and abs(np.mean(apart) - BITS / 2) < 5
    assert perceptual_hash(Image.new("RGB", (99, 50), (10, 20, 30))) is None


def test_nearest_pictures_by_brute_force(monkeypatch):
    """Blocks of 7 over 30 and 20 random hashes, against every pair counted bit by bit."""
    monkeypatch.setattr(leaks, "BLOCK", 7)
    monkeypatch.setattr(leaks, "NEAR", 110)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (50, BITS)).astype(bool)
    gallery = Gallery(1)
    for number in range(50):
        gallery.add(str(number), "train" if number < 30 else "eval", f"row {number}")
    gallery.finish()
    gallery.looks = [Look((9, 9), bytes([number]), np.packbits(row).tobytes()) for number, row in enumerate(bits)]
    apart = (bits[30:, None] != bits[None, :30]).sum(-1)  # (20, 30)
    expected = {30 + n: (int(row.argmin()), int(row.min())) for n, row in enumerate(apart) if row.min() <= 110}
    found = leaks.leaks(gallery)
    assert 0 < len(expected) < 20
    assert {int(leak.eval): (int(leak.train), leak.bits) for leak in found} == expected
    assert [leak.bits for leak in found] == sorted(leak.bits for leak in found)


def test_pictures_without_features_are_only_compared_by_pixels(tmp_path):
    """Two shades of nothing look alike and are not reported; the same shade is."""
    gallery = Gallery(1)
    for name, shade, role in (("a", 10, "train"), ("b", 90, "eval"), ("c", 10, "eval")):
        Image.new("RGB", (50, 50), (shade,) * 3).save(tmp_path / f"{name}.png")
        gallery.add(str(tmp_path / f"{name}.png"), role, name)
    gallery.finish()
    assert [(leak.kind, leak.train_row, leak.eval_row) for leak in leaks.leaks(gallery)] == [("same pixels", "a", "c")]


def test_odd_boxes(tmp_path):
    """A picture of 100 × 50 that the model sees at 112 × 56 (1.12 times): sides under 3.57 pixels are tiny."""
    texture(0, (100, 50)).save(tmp_path / "a.png")
    boxes = {
        "whole": [[0, 0, 100, 50]],
        "huge": [[0, 0, 90, 46]],  # 0.828 of the image
        "large": [[0, 0, 80, 49]],  # 0.784
        "tiny": [[0, 0, 3.5, 30]],
        "small": [[0, 0, 3.6, 30]],
        "twice": [[1, 1, 20, 20], [30, 1, 40, 20], [1.2, 0.8, 20, 20], [1, 1, 20, 20]],
    }
    rows = [asked("a.png", 0, id=name, task="grounding", boxes=found) for name, found in boxes.items()]
    path = str(dump(tmp_path / "t.jsonl", rows))
    limits = Grid(28, 112 * 56, 112 * 56)
    report = examine(
        Subject(DataSection(train=[SourceSection(path=path)]), 0, Ruler(PromptSection()), limits), tmp_path, 1
    )
    found = report.to_dict()["boxes"]["odd"]
    assert {kind: (line["count"], line["first"]) for kind, line in found.items()} == {
        "whole image": (1, ["t/whole"]),
        "huge": (1, ["t/huge"]),
        "tiny": (1, ["t/tiny"]),
        "given twice": (2, ["t/twice", "t/twice"]),
    }
    assert report.box_sides[0] == pytest.approx(1) and report.box_sides[3] == pytest.approx((3.5 * 30 / 5000) ** 0.5)


def examined(folder, stage, *overrides):
    from evals.recipe import EvalRecipe
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe

    path = folder / "recipe.yaml"
    path.write_text(path.read_text().replace("stage: grpo", f"stage: {stage}"))
    patient = subject(config.load_any(path, [EvalRecipe, GRPORecipe, SFTRecipe], overrides))
    return patient, examine(patient, folder, 1)


@pytest.fixture
def several(tmp_path):
    """Rows with one picture, two pictures of other sizes, and none; with an answer to learn."""
    put_data(tmp_path)
    texture(5, (300, 80)).save(tmp_path / "wide.png")
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "<answer>seven</answer>"}]
    shown = (["a.png"], ["wide.png", "b.png"], [])
    dump(tmp_path / "train.jsonl", [asked("", n, images=names, messages=turns) for n, names in enumerate(shown)])
    return tmp_path


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_rows_are_as_long_as_the_processor_makes_them(several, stage):
    """Against the input ids of the real processor, pictures and template included."""
    from trl.data_utils import prepare_multimodal_messages

    from vlm import prompts
    from vlm.loading import load_processor
    from vlm.pictures.images import load

    limits = "images={min_pixels: 3136, max_pixels: 12544}"
    patient, report = examined(several, stage, limits, "data.eval=[]")
    processor = load_processor(
        str(ROOT / "demo/base"), ImageSection(min_pixels=patient.sight.least, max_pixels=patient.sight.most)
    )
    expected = []
    for sample in read(several / "train.jsonl"):
        turns = prompts.prompt(sample) + ([sample.messages[-1]] if stage == "sft" else [])
        images = [load(image) for image in sample.images]
        turns = prepare_multimodal_messages(turns, images=images)
        text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=stage == "grpo")
        expected.append(len(processor(text=[text], images=images or None)["input_ids"][0]))
    assert report.lengths.tolist() == expected


def test_boxes_that_training_writes_count(tmp_path):
    """SFT asked directly writes the reference of a row with boxes: tokens as of the rows that it trains on."""
    from samples.rows import chat_rows
    from vlm.loading import load_processor

    put_data(tmp_path)
    boxes = [[1, 2, 33, 44], [5, 6, 60, 61]]
    dump(tmp_path / "train.jsonl", [asked("a.png", 0, task="grounding", boxes=boxes, answer=None)])
    patient, report = examined(tmp_path, "sft", "data.eval=[]", "prompt.style=direct")
    (row,) = chat_rows(read(tmp_path / "train.jsonl"), patient.ruler.prompt, Resizing(patient.sight))
    assert "33" not in row["messages"][-1]["content"] and row["messages"][-1]["role"] == "assistant"
    tokenizer = load_processor(
        str(ROOT / "demo/base"), ImageSection(min_pixels=patient.sight.least, max_pixels=patient.sight.most)
    ).tokenizer
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert report.lengths.tolist() == [len(tokenizer(text)["input_ids"]) + 16 + 2]


def test_the_room_that_rows_have(several):
    """The least of the stage's own limits and the model's context, less what is generated."""
    from vlm.loading import raw_config

    context = raw_config(str(ROOT / "demo/base"))
    context = context.get("text_config", context)["max_position_embeddings"]
    for stage, overrides, room in (
        ("grpo", ["training.max_completion_length=100"], context - 100),
        ("eval", ["generation.max_new_tokens=64"], context - 64),
        ("sft", [], context),
        ("sft", ["training.max_length=120"], 120),
    ):
        put = several / "recipe.yaml"
        text = put.read_text()
        _, report = examined(several, stage, *overrides)
        put.write_text(text)
        assert (stage, report.room) == (stage, room)
    long = report.long.counts.total()
    assert long == (report.lengths > 120).sum() > 0
    assert any("longer than 120 tokens (training.max_length)" in text for text in report.warnings)


def test_without_a_tokenizer_a_note_says_so(several):
    _, report = examined(several, "grpo", "model.path=/nowhere/at/all")
    assert any("row lengths are not measured: model.path: no folder /nowhere" in note for note in report.notes)
    assert not len(report.lengths) and report.pictures == 4


def flat(value, spread=0):
    rng = np.random.default_rng(2)
    return Image.fromarray(np.clip(value + rng.integers(-spread, spread + 1, (60, 60, 3)), 0, 255).astype(np.uint8))


def patch(ground, value, side):
    picture = np.full((100, 100, 3), ground, np.uint8)
    picture[:side, :side] = value
    return Image.fromarray(picture)


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (flat(5, 5), "black"),  # 0 to 10: 16-bit values to 3,000 by their high byte
        (flat(15), "black"),
        (flat(16), "constant"),
        (flat(250, 5), "white"),
        (flat(239), "constant"),
        (flat(120), "constant"),
        (flat(120, 3), ""),  # standard deviation 2 · √(0.299² + 0.587² + 0.114²) = 1.3
        (flat(120, 40), ""),
        (patch(0, 200, 9), "black"),  # 81 of 10,000 pixels
        (patch(0, 200, 11), ""),  # 121: more than a hundredth
        (patch(255, 0, 9), "white"),
        (patch(255, 0, 70), ""),  # half nodata
    ],
)
def test_pictures_with_nothing_to_see(picture, kind):
    assert tone(picture) == kind


def test_the_doctor_warns_of_them_once_a_picture(tmp_path):
    pictures = {"black": flat(5, 5), "white": flat(250, 5), "grey": flat(120), "good": texture(3)}
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
    shown = [asked(f"{name}.png", n, id=f"{name}{n}") for name in pictures for n in range(2)]
    section = SourceSection(path=str(dump(tmp_path / "t.jsonl", shown)))
    report = examine(Subject(DataSection(train=[section]), 0, Ruler(PromptSection())), tmp_path, 1)
    assert report.fit() and not report.fit(strict=True)
    assert sorted(report.warnings) == [
        "1 pictures: constant (grey varies by less than 1 level of 256)",
        "1 pictures: nearly black (grey below 16 of 256 in 99% of the pixels)",
        "1 pictures: nearly white (grey above 239 of 256 in 99% of the pixels)",
    ]
    (kind,) = [kind for kind in report.to_dict()["pictures"]["odd"] if "black" in kind]
    (line,) = report.to_dict()["pictures"]["odd"][kind]["first"]
    assert line == f"{tmp_path}/black.png, shown by 2 rows, first t/black0"


def test_pictures_of_the_demo_have_something_to_see(demo_data):
    found = sorted(path for path in demo_data.rglob("*") if path.suffix in (".png", ".jpg"))
    assert len(found) > 20 and {tone(load(str(path))) for path in found} == {""}


def test_other_suffixes_and_objects_left_out_are_in_the_report():
    """In JSON as on the terminal: counts, and the first of each kind."""
    faults = Faults(swapped=3)
    faults.drop("flat_object", "rows.jsonl, line 2, object 1")
    faults.drop("flat_object", "rows.jsonl, line 9, object 4")
    found = SourceCounts("train", "rows.jsonl", faults=faults).to_dict()
    assert found["other_suffixes"] == 3
    assert found["objects_left_out"] == {"flat_object": {"count": 2, "first": "rows.jsonl, line 2, object 1"}}
