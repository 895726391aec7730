"""A budget of pixels that the pictures of a row share: every way to the model sees a picture at one size."""

from __future__ import annotations

import base64
import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from evals.asking.conversation import conversation
from evals.asking.served import messages_of
from evals.asking.turns import Talks
from rewards.score import Exchange, ScoreModel, encode
from rewards.score.model.fingerprint import fingerprint
from samples import Sample
from samples.rows import chat_rows, prompt_rows
from tests.support.sights import resizing
from tests.support.tiny_checkpoints import picture, pixels
from vlm import loading
from vlm.common.errors import RecipeError, UserError
from vlm.families.glm4v import Enlarged
from vlm.families.sight import Grid, Square, Tiles, Unknown
from vlm.pictures import engine
from vlm.pictures.budget import Crowded, Part, check_rows, shared
from vlm.pictures.resizing import by_role, fitted, seen, shown
from vlm.sections import ImageSection, PromptSection, ResizeSection, ToolSection, TurnSection
from vlm.tools.toolbox import Toolbox

SIDE = 28
LIMITS = ImageSection(min_pixels=4 * SIDE**2, max_pixels=40 * SIDE**2, row_pixels=60 * SIDE**2)
SIZES = [(300, 200), (120, 260)]
"""Of two pictures; each alone is seen at up to 40 squares, both together at up to 30 each."""

sides = st.integers(1, 3000)
grids = st.sampled_from([Grid, Enlarged])


@settings(max_examples=300, deadline=None)
@given(
    kind=grids, size=st.tuples(sides, sides), least=st.integers(1, 60), room=st.integers(1, 400), n=st.integers(1, 9)
)
def test_all_pictures_of_a_row_stay_within_it_and_no_processor_changes_them(kind, size, least, room, n):
    """Or the row is refused; pixels in squares of 28, `most` far above."""
    plain = kind(SIDE, least * SIDE**2, 500 * SIDE**2)
    try:
        found = shared(plain, max(room, least) * SIDE**2).among(n).seen(size)
    except ValueError:  # crowded, or a strip
        return
    assert n * found[0] * found[1] <= max(room, least) * SIDE**2
    assert found[0] * found[1] >= least * SIDE**2 and found[0] % SIDE == found[1] % SIDE == 0
    assert plain.seen(found) == found
    part = shared(plain, max(room, least) * SIDE**2).among(n)
    assert part.seen(found) == found and part.tokens(size) == found[0] * found[1] // SIDE**2


@settings(max_examples=100, deadline=None)
@given(size=st.tuples(sides, sides), tiles=st.integers(1, 12), n=st.integers(1, 5))
def test_tiles_count_the_same_way(size, tiles, n):
    plain = Tiles(56, 16, 56**2, 12 * 56**2)
    try:
        part = shared(plain, tiles * 56**2).among(n)
        found = part.seen(size)
    except Crowded:
        assert tiles < n
        return
    assert n * found[0] * found[1] <= tiles * 56**2 and plain.seen(found) == found == part.seen(found)


def test_parts_by_hand():
    sight = shared(Grid(SIDE, 4 * SIDE**2, 40 * SIDE**2), 60 * SIDE**2)
    assert sight.among(1) == Grid(SIDE, 4 * SIDE**2, 40 * SIDE**2)  # 60 squares are more than one may have
    assert sight.among(0) == sight.among(1)
    assert sight.among(2) == Part(sight.among(1), 30 * SIDE**2)
    # 300 × 200: of 30 squares √(30 · 1.5) = 6.7 and √(30 / 1.5) = 4.5, rounded down
    assert sight.among(2).seen((300, 200)) == (6 * SIDE, 4 * SIDE) and sight.among(2).tokens((300, 200)) == 24
    assert sight.among(2).bounds() == (4, 30) and sight.bounds() == (4, 40)
    assert sight.among(15).seen((300, 300)) == (2 * SIDE, 2 * SIDE)
    with pytest.raises(
        Crowded, match=r"row_pixels = 47040 leaves each of 16 pictures 2940 .* at most 15 pictures a row"
    ):
        sight.among(16)
    # 800 × 600 with 30 squares would be 6 × 4 of at least 29; of what lies next to it 7 × 4 and 6 × 5 = 30
    assert shared(Grid(SIDE, 29 * SIDE**2, 90 * SIDE**2), 60 * SIDE**2).among(2).seen((800, 600)) == (
        6 * SIDE,
        5 * SIDE,
    )
    with pytest.raises(
        Crowded, match=r"would be 140×140.*no size that the model takes lies between.*= 24304 and 26656"
    ):
        # 5 × 5 and 6 × 5 are too few, 6 × 6 too many
        shared(Grid(SIDE, 31 * SIDE**2, 90 * SIDE**2), 68 * SIDE**2).among(2).seen((700, 700))


def test_who_forgets_the_row_is_told():
    sight = shared(Grid(SIDE, 784, 7840), 7840)
    for ask in (sight.tokens, sight.seen, lambda size: sight.drawn(size, 1, 1, 1), lambda size: seen(size, sight)):
        with pytest.raises(TypeError, match="sight.among"):
            ask((30, 30))


@pytest.mark.parametrize("plain", [Square(56, 16), Unknown(1, 2)])
def test_where_sizes_have_no_say_there_is_no_budget(plain):
    with pytest.raises(RecipeError, match=r"images.row_pixels: .*; leave it out"):
        shared(plain, 10**6)
    assert shared(plain, None) is plain


def test_what_cannot_be_is_refused(tiny_model):
    with pytest.raises(ValidationError, match="row_pixels = 100, min_pixels = 3136; expected row_pixels ≥ min_pixels"):
        ImageSection(min_pixels=3136, max_pixels=12544, row_pixels=100)
    with pytest.raises(RecipeError, match="no row could have a picture"):
        loading.load_processor(tiny_model, pixels(3136, 12544, row=100))
    with pytest.raises(RecipeError, match="images.row_pixels with tools"):
        Toolbox.of([ToolSection(use="zoom")], TurnSection(), shared(Grid(SIDE, 784, 7840), 7840))


# --- drawn sizes


def drawing(row_pixels=None):
    limits = ResizeSection(min_pixels=9 * SIDE**2, max_pixels=400 * SIDE**2)
    given = {"min_pixels": 4 * SIDE**2, "max_pixels": 400 * SIDE**2, "row_pixels": row_pixels}
    return resizing(ImageSection(**given, random_resize=limits), seed=4, train=True)


def test_pictures_of_one_size_in_a_row_are_drawn_at_one_size(tmp_path):
    """Two dates of a place: pixel lies on pixel. A third picture of another size has as many pixels."""
    names = []
    for number, size in enumerate([(300, 200), (300, 200), (200, 300)]):
        picture(*size, seed=number).save(tmp_path / f"{number}.png")
        names.append(str(tmp_path / f"{number}.png"))
    for sizes in (drawing(), drawing(60 * SIDE**2)):
        seen_at = set()
        for row in range(30):
            first, second, third = (sizes.picture(name, row, among=3).size for name in names)
            assert first == second and third == first[::-1]
            seen_at.add(first)
        assert len(seen_at) > (10 if sizes.sight.plain is sizes.sight else 2)


@settings(max_examples=100, deadline=None)
@given(size=st.tuples(st.integers(300, 900), st.integers(300, 900)), row=st.integers(0, 50), n=st.integers(1, 6))
def test_draws_stay_within_the_budget(size, row, n):
    sizes = drawing(60 * SIDE**2)
    drawn = sizes.drawn(size, row, among=n)
    assert n * np.prod(drawn) <= 60 * SIDE**2 and sizes.seen(drawn, among=n) == drawn


# --- every way to the model


@pytest.fixture
def pair(tmp_path):
    """A row with two pictures, one with one, each with a box."""
    names = []
    for number, size in enumerate(SIZES):
        picture(*size, seed=number).save(tmp_path / f"{number}.png")
        names.append(str(tmp_path / f"{number}.png"))

    def sample(name, images):
        turns = [{"role": "user", "content": "the dam"}]
        return Sample(images, turns, "grounding", boxes=[[10.0, 20, 60, 80]], size=SIZES[0], source="s", id=name)

    return [sample("two", names), sample("one", names[:1])]


@pytest.fixture(scope="module")
def processor(tiny_model):
    return loading.load_processor(tiny_model, LIMITS)


EXPECTED = {"two": [(168, 112), (84, 224)], "one": [(196, 140)]}
"""(width, height) at which pictures are seen, in squares rounded down: of 30 √(30 · 1.5) = 6.7 by √(30 / 1.5) = 4.5,
and √(30 · 0.46) = 3.7 by 8.06; alone of 40 7.7 by 5.2."""

HANDED = EXPECTED | {"one": SIZES[:1]}
"""At which the processor gets them: one that has its own limits all to itself is left to it."""


def test_the_sizes_are_those_of_the_budget():
    sight = shared(Grid(SIDE, LIMITS.min_pixels, LIMITS.max_pixels), LIMITS.row_pixels)
    assert [sight.among(2).seen(size) for size in SIZES] == EXPECTED["two"]
    assert [sight.among(1).seen(size) for size in SIZES[:1]] == EXPECTED["one"]


def grid_sizes(grids):
    return [(14 * int(grid[2]), 14 * int(grid[1])) for grid in grids]


def test_training_tables(pair, processor):
    table = prompt_rows(pair, PromptSection(notation="qwen2_5_vl"), resizing(LIMITS))
    for row in table:
        assert [one.size for one in row["images"]] == HANDED[row["id"]]
        assert tuple(row["resized"]) == EXPECTED[row["id"]][0]
        turns = [{"role": "user", "content": [{"type": "image", "image": one} for one in row["images"]]}]
        found = processor.apply_chat_template([turns], tokenize=True, return_dict=True, return_tensors="pt")
        assert grid_sizes(found["image_grid_thw"]) == EXPECTED[row["id"]]
    asked = PromptSection(style="direct", notation="qwen2_5_vl")
    for row, wanted in zip(chat_rows(pair, asked, resizing(LIMITS)), ("two", "one"), strict=True):
        assert [one.size for one in row["images"]] == HANDED[wanted]
        width, height = EXPECTED[wanted][0]
        numbers = [round(10 / 300 * width), round(20 / 200 * height), round(60 / 300 * width), round(80 / 200 * height)]
        assert str(numbers)[1:-1] in row["messages"][-1]["content"]


def test_a_large_file_is_brought_to_it(tmp_path, monkeypatch):
    from vlm.pictures import cache, images

    monkeypatch.setattr(images, "LARGE", 100)
    cache.decoded.clear()
    picture(900, 600, seed=3).save(tmp_path / "a.png")
    table, name = resizing(LIMITS), str(tmp_path / "a.png")
    assert table.picture(name, 0, among=2).size == (168, 112) == shown(name, table.sight.among(2)).size
    cache.decoded.clear()


def test_evaluation_and_its_backends(pair, processor):
    """transformers, vLLM (the size that it is handed, and what is meant) and an endpoint."""
    for sample in pair:
        wanted = EXPECTED[sample.id]
        turns = conversation(sample, PromptSection(), processor.sight)
        shown_at = [part["image"] for part in turns[-1]["content"] if part["type"] == "image"]
        assert [one.size for one in shown_at] == HANDED[sample.id]
        inputs = processor.apply_chat_template([turns], tokenize=True, return_dict=True, return_tensors="pt")
        assert grid_sizes(inputs["image_grid_thw"]) == wanted
        handed = [engine.as_seen(one, processor) for one in shown_at]
        assert [one.size for one in handed] == wanted
        token = processor.image_token_id
        meant = engine.written_out([token] * len(wanted), token, handed, processor.sight)
        assert len(meant) == sum(w * h // SIDE**2 for w, h in wanted)
        told = engine.arguments(processor)["mm_processor_kwargs"]
        assert told["min_pixels"] <= min(w * h for w, h in wanted) and told["max_pixels"] >= LIMITS.max_pixels
        talk = Talks(PromptSection(), 8, processor.sight).begun((sample, 0))
        sent = [part for part in messages_of(talk)[-1]["content"] if part["type"] == "image_url"]
        data = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in sent]
        assert [Image.open(io.BytesIO(one)).size for one in data] == wanted


@pytest.mark.parametrize("share", [True, False])
def test_score_model(pair, tiny_model, share):
    """One picture beside another and alone is two pictures, in one batch; scores are those of fitted pictures."""
    model = ScoreModel.from_backbone(
        tiny_model, dtype="float32", min_pixels=LIMITS.min_pixels, max_pixels=LIMITS.max_pixels
    )
    model.processor.share_rows(LIMITS.row_pixels)
    asked = [Exchange.of("What?", said, sample.images) for sample in pair for said in ("a dam", "two")]
    found = model.eval().score(asked, share_prefix=share)
    for images in ({}, {"share_images": True}):
        batch = encode(asked, model.processor, **images)
        index = batch.get("image_index", torch.arange(len(batch["image_grid_thw"])))
        assert grid_sizes(batch["image_grid_thw"][index]) == [*EXPECTED["two"] * 2, *EXPECTED["one"] * 2]
    before = fingerprint(model)
    model.processor.share_rows(None)
    part = shared(model.processor.sight, LIMITS.row_pixels)
    ready = [
        [fitted(Image.open(name).convert("RGB"), part.among(len(sample.images))) for name in sample.images]
        for sample in pair
    ]
    alone = [Exchange.of("What?", said, images) for images in ready for said in ("a dam", "two")]
    torch.testing.assert_close(
        torch.tensor(found), torch.tensor(model.score(alone, share_prefix=False)), rtol=0, atol=1e-5
    )
    plain = [Exchange.of("What?", said, sample.images) for sample in pair for said in ("a dam", "two")]
    assert abs(model.score(plain, share_prefix=False)[0] - found[0]) > 1e-5
    assert fingerprint(model) != before


def test_a_checkpoint_carries_it(tiny_model, processor, tmp_path):
    """And transformers' own class, which knows nothing of it, reads the folder."""
    processor.save_pretrained(tmp_path)
    shutil.copy(f"{tiny_model}/config.json", tmp_path)
    stored = loading.stored_limits(str(tmp_path))
    assert (stored.min_pixels, stored.max_pixels, stored.row_pixels) == (3136, 31360, 47040)
    again = loading.load_processor(str(tmp_path), stored)
    assert again.sight == processor.sight and again.row_pixels == 47040
    assert loading.load_processor(str(tmp_path), pixels()).row_pixels is None
    stock = loading.family_of(str(tmp_path))
    assert stock.class_of(stock.image_processor).from_pretrained(str(tmp_path)).size["longest_edge"] == 31360
    loading.load_processor(tiny_model, pixels()).save_pretrained(tmp_path / "plain")
    assert "row_pixels" not in (tmp_path / "plain/processor_config.json").read_text()


def test_a_picture_that_nobody_fitted_is_refused(processor):
    """As of rows of the user's own, or of a way to the model that forgot it."""
    given = [picture(*size, seed=1) for size in SIZES]
    with pytest.raises(UserError, match=r"picture 1 of a row of 2 comes with \(300, 200\), expected \(168, 112\)"):
        processor(text=["<|image_pad|>" * 2], images=[given], return_tensors="pt")
    with pytest.raises(UserError, match="expected rows of pictures"):
        check_rows(given, processor.sight)
    ready = [fitted(one, processor.sight.among(2)) for one in given]
    found = processor(text=["<|image_pad|>" * 2], images=[ready, None, []][:1], return_tensors="pt")
    assert grid_sizes(found["image_grid_thw"]) == EXPECTED["two"]


def test_roles_have_it(tiny_model):
    recipe = SimpleNamespace(model=SimpleNamespace(path=str(tiny_model), revision=None), images=LIMITS, seed=0)
    for one in by_role(recipe).values():
        assert one.drawn((300, 200), 0, among=2) == (168, 112)
