"""Sizes at which pictures reach the model: drawn for training rows, told to the rewards, followed by the boxes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

import rewards
from evals import predictions
from evals.scoring import metrics
from evals.scoring.reading import Reading
from rewards.select.selectors import agreement
from samples import Sample, rows
from stage.trainer.callbacks import PassCallback
from tests.support.sights import resizing, sight
from vlm.boxes import NOTATIONS, quad_from_obb, read_boxes, write_boxes, write_quads
from vlm.common.errors import DataError
from vlm.families.sight import Grid
from vlm.loading import load_processor
from vlm.pictures.resizing import resized, seen, shown
from vlm.sections import ImageSection, PromptSection, ResizeSection

SIDE = 28
LIMITS = ImageSection(min_pixels=56 * 56, max_pixels=560 * 560)
DRAWN = ImageSection(
    min_pixels=56 * 56, max_pixels=560 * 560, random_resize=ResizeSection(min_pixels=112 * 112, max_pixels=448 * 448)
)
BOX, QUAD = [30.0, 20, 150, 80], quad_from_obb(90, 60, 100, 30, 20)


def user(text):
    return {"role": "user", "content": text}


@pytest.fixture
def samples(tmp_path):
    """Pictures of several shapes, each with a box and a quadrilateral in pixels of its own."""
    found = []
    for number, size in enumerate([(200, 120), (300, 300), (180, 400), (640, 160)]):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size, (number, 0, 0)).save(path)
        truth = {"boxes": [BOX], "quads": [QUAD]}
        found.append(
            Sample([str(path)], [user("the dam")], "grounding", size=size, source="s", id=str(number), **truth)
        )
    return found


# --- the draw


def test_the_side_is_drawn_uniformly_between_the_limits():
    """√(w·h) is spread evenly, whatever the image; the aspect ratio stays up to the multiples of 28."""
    sizes = resizing(
        ImageSection(
            min_pixels=1, max_pixels=10**7, random_resize=ResizeSection(min_pixels=448 * 448, max_pixels=1344 * 1344)
        ),
        train=True,
    )
    for size in ((800, 800), (4000, 2000)):
        drawn = np.array([sizes.drawn(size, row, among=1) for row in range(3000)])
        sides = np.sqrt(drawn.prod(axis=1))
        assert sides.min() > 448 - 2 * SIDE and sides.max() <= 1344
        shares = np.histogram(sides, bins=8, range=(448, 1344))[0] / len(sides)
        assert np.abs(shares - 1 / 8).max() < 0.03  # five standard deviations of a share: 0.030
        assert np.all(drawn % SIDE == 0)
        wanted = size[0] / size[1]
        assert np.all(np.abs(drawn[:, 0] - drawn[:, 1] * wanted) <= SIDE * (1 + wanted))


def test_a_size_depends_on_seed_row_and_pass_only():
    def draw(seed=0, passed=0):
        sizes = resizing(DRAWN, seed, train=True)
        sizes.passed = passed
        return [sizes.drawn((300, 200), row, among=1) for row in range(40)]

    assert draw() == draw()
    assert draw() != draw(seed=1) != draw(passed=1) != draw()
    assert len(set(draw())) > 10
    plain = resizing(DRAWN)  # rows that are not trained on
    assert plain.drawn((300, 200), 5, among=1) == (300, 200)


def test_passes_are_counted_by_the_trainer():
    sizes = resizing(DRAWN, train=True)
    callback = PassCallback(sizes)
    for epoch, expected in ((None, 0), (0.0, 0), (0.4, 0), (0.9999999999, 1), (1.0, 1), (7.25, 7)):
        callback.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
        assert sizes.passed == expected


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (lambda: ResizeSection(min_pixels=0, max_pixels=10**6), "expected 0 < min_pixels < max_pixels"),
        (
            lambda: ImageSection(
                min_pixels=10**5, max_pixels=10**6, random_resize=ResizeSection(min_pixels=10**4, max_pixels=10**6)
            ),
            "random_resize draws 10000",
        ),
        (
            lambda: ImageSection(
                min_pixels=10**4, max_pixels=10**5, random_resize=ResizeSection(min_pixels=10**4, max_pixels=10**6)
            ),
            "would undo it",
        ),
    ],
)
def test_limits_that_contradict_each_other_are_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        section()


# --- the column


@pytest.mark.parametrize("images", [LIMITS, DRAWN])
def test_resized_is_the_size_that_the_processor_makes(samples, tiny_model, images):
    """The grid of patches of the real processor, times 14 pixels."""
    processor = load_processor(tiny_model, images)
    table = rows.prompt_rows(samples, PromptSection(), resizing(images, seed=3, train=True))
    for row in table:
        grid = processor.image_processor(images=row["images"], return_tensors="np")["image_grid_thw"][0]
        assert row["resized"] == [14 * int(grid[2]), 14 * int(grid[1])]
        assert "row" not in row and row["boxes"] == [BOX]
        if images is DRAWN:
            assert row["images"][0].size == tuple(row["resized"])
            assert 112 * 112 * 0.7 < math.prod(row["resized"]) <= 448 * 448
    assert [tuple(row["resized"]) for row in rows.prompt_rows(samples, PromptSection(), resizing(images))] == [
        seen(sample.size, sight(images)) for sample in samples
    ]


def test_a_group_sees_one_picture_and_the_next_pass_another(samples):
    sizes = resizing(DRAWN, train=True)
    table = rows.prompt_rows(samples, PromptSection(), sizes)
    group = table[[1, 1, 1]]  # as TRL's sampler asks for a group, in one batch or row by row
    again = table[1]
    assert len({id(images[0]) for images in group["images"]} | {id(again["images"][0])}) == 1
    assert group["resized"] == [again["resized"]] * 3
    shuffled = table.shuffle(seed=5)
    assert {row["id"]: row["resized"] for row in shuffled} == {row["id"]: row["resized"] for row in table}
    before = [row["resized"] for row in table]
    sizes.passed = 1
    assert [row["resized"] for row in table] != before


def test_rows_without_sizes_have_no_column(samples):
    assert "resized" not in rows.prompt_rows(samples, PromptSection())[0]
    bare = rows.prompt_rows([Sample([], [user("2 + 2?")], "vqa", answer="4")], PromptSection(), resizing(LIMITS))[0]
    assert (bare["images"], bare["resized"]) == ([], None)


def test_a_strip_that_no_model_takes_is_named(tmp_path):
    Image.new("RGB", (4000, 10)).save(tmp_path / "strip.png")
    sample = Sample([str(tmp_path / "strip.png")], [user("x")], "vqa", answer="y", size=(4000, 10), source="s", id="9")
    with pytest.raises(DataError, match=r"s: row '9': image size 4000×10.*cut the picture"):
        rows.prompt_rows([sample], PromptSection(), resizing(LIMITS))


# --- rewards


@pytest.mark.parametrize("notation", NOTATIONS)
def test_rewards_do_not_depend_on_the_size_drawn(samples, notation):
    """From the rows to the reward: a model that sees the truth at the size drawn and writes it earns what rounding
    leaves, at every size; the same text at another size does not."""
    sizes = resizing(DRAWN, seed=1, train=True)
    table = rows.prompt_rows(samples, PromptSection(notation=notation), sizes)
    shape = "box" if NOTATIONS[notation].shape == "box" else "quad"
    reward = rewards.resolve("iou", notation=notation, shape=shape, inside="text")
    earned = []
    for passed in range(6):
        sizes.passed = passed
        batch = table[:]
        shapes, write = ("boxes", write_boxes) if shape == "box" else ("quads", write_quads)
        said = [
            write(truth, notation, size, resized)
            for truth, size, resized in zip(batch[shapes], batch["size"], batch["resized"], strict=True)
        ]
        earned += reward(completions=said, **{key: batch[key] for key in batch if key != "prompt"})
    # Half a unit: a percent of a wide image is 6 pixels, and a degree turns a long box by one.
    assert min(earned) > (0.6 if notation == "geochat" else 0.8)
    if NOTATIONS[notation].frame == "resized":
        wrong = batch | {"resized": [[2 * side for side in size] for size in batch["resized"]]}
        assert max(reward(completions=said, **{key: wrong[key] for key in wrong if key != "prompt"})) < 0.5


@pytest.mark.parametrize("columns", [{}, {"resized": [None]}])
def test_without_the_size_a_clear_error(columns):
    truth = {"boxes": [[BOX]], "size": [(200, 120)], "task": ["grounding"], "source": ["s"], "id": ["4"]}
    with pytest.raises(DataError, match="source 's', id '4': the notation rscovlm counts pixels .* 'resized'"):
        rewards.iou(completions=["1,2,3,4"], notation="rscovlm", inside="text", **truth, **columns)


# --- references for supervised training


def test_box_truth_is_written_at_the_size_drawn(samples):
    sizes = resizing(DRAWN, train=True)
    table = rows.chat_rows(samples, PromptSection(style="direct", notation="qwen2_5_vl"), sizes)
    seen_sizes = set()
    for passed in range(3):
        sizes.passed = passed
        for row, sample in zip(table, samples, strict=True):
            assert set(row) == {"messages", "images", "source", "id"}
            question, reply = row["messages"]
            resized = row["images"][0].size
            assert question["role"] == "user" and reply["role"] == "assistant"
            assert reply["content"] == write_boxes([BOX], "qwen2_5_vl", sample.size, resized)
            (box,) = read_boxes(reply["content"], "qwen2_5_vl", sample.size, resized)
            assert box == pytest.approx(BOX, abs=2)
            seen_sizes.add(resized)
    assert len(seen_sizes) > 6


def test_box_truth_in_other_frames_and_shapes(samples):
    per_mille = rows.chat_rows(samples[:1], PromptSection(style="direct", notation="qwen2_vl"))[0]["messages"][-1]
    assert per_mille == {"role": "assistant", "content": "<|box_start|>(150,167),(750,667)<|box_end|>"}
    turned = rows.chat_rows(samples[:1], PromptSection(style="direct", notation="geochat"))[0]["messages"][-1]
    assert turned["content"] == write_quads([QUAD], "geochat", (200, 120))


def test_what_cannot_be_written_is_an_error(samples):
    direct = PromptSection(style="direct", notation="rscovlm")
    with pytest.raises(DataError, match="row '0': the notation rscovlm counts pixels"):
        rows.chat_rows(samples, direct)
    with pytest.raises(DataError, match="row '0': messages end without an assistant turn"):
        rows.chat_rows(samples, PromptSection(notation="rscovlm"), resizing(LIMITS))  # r1 needs a trace
    samples[0].messages.append({"role": "assistant", "content": "30,20,150,80"})
    with pytest.raises(DataError, match="row '0': its reference is text, but images.random_resize"):
        rows.chat_rows(samples, direct, resizing(DRAWN, train=True))
    kept = rows.chat_rows(samples[:1], direct, resizing(LIMITS))[0]["messages"][-1]["content"]
    assert kept == "30,20,150,80"  # at the size that the recipe gives it


# --- evaluation and voting


def test_predictions_carry_the_size_seen(samples, tmp_path):
    (size, resized) = samples[0].size, seen(samples[0].size, sight(LIMITS))
    said = write_boxes([BOX], "rscovlm", size, resized)
    row = predictions.from_sample(samples[0], said, resized=resized)
    predictions.write(tmp_path / "p.jsonl", [row])
    (read,) = predictions.read(tmp_path / "p.jsonl")
    assert read.resized == resized
    assert metrics.judge(read, Reading("rscovlm", "text")).iou > 0.9
    read.resized = None
    with pytest.raises(DataError, match="no 'resized'"):
        metrics.judge(read, Reading("rscovlm", "text"))


def test_votes_are_compared_at_the_size_seen(samples):
    said = ["30,20,150,80", "30,20,150,80 dam", "200,20,300,80", "none"]
    votes = agreement(samples[0], said, "rscovlm", (560, 336))
    assert votes[0].tolist() == [1.0, 1.0, 0.0, 0.0] and votes[3].tolist() == [0.0] * 4


WIDE = (4 * 28 * 28, 16384 * 28 * 28)
"""Limits of the published checkpoints, which a server has unless it is told others."""


@pytest.mark.versions
@pytest.mark.parametrize(
    ("size", "limits"),
    [
        ((61, 43), (12544, 25088)),  # enlarged
        ((301, 275), (12544, 25088)),  # reduced
        ((141, 110), (12544, 25088)),  # rounded to multiples of 28 alone
        ((9, 150), (12544, 12544)),  # a thin strip between equal limits, which would be rounded once more
    ],
)
def test_another_processor_has_nothing_left_to_resize(size, limits, tiny_model, tmp_path):
    """To the bit what our own makes of the picture: one of wider limits sees the same."""
    Image.effect_noise(size, 60).convert("RGB").save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")

    def pixels(picture, least, most):
        section = ImageSection(min_pixels=least, max_pixels=most)
        found = load_processor(tiny_model, section).image_processor(picture, return_tensors="pt")
        return found["pixel_values"], found["image_grid_thw"].tolist()

    expected, grid = pixels(shown(path, Grid(28, *limits)), *limits)
    assert resized(path, Grid(28, *limits)).size == Grid(28, *limits).seen(size)
    found, its = pixels(resized(path, Grid(28, *limits)), *WIDE)
    assert its == grid and found.equal(expected)
