"""Which rows a table shows, what they hold, and that nothing grows with the batch."""

import io
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor
from pydantic import ValidationError

from rl.table import batch_of, logged
from stage.runs import Run
from stage.tracking import overlays
from stage.tracking.pictures import placed, small
from stage.tracking.samples import Samples
from stage.tracking.section import SampleSection
from stage.tracking.table import Asked, Batch, Chain, Crop, Reading, asked, chosen, due, pictured, row
from vlm.pictures.drawing import ZOOMED


def test_tables_at_the_first_step_every_so_many_and_the_last():
    def steps(every, covers=1, last=25):
        batches = [Batch(step, covers, last, 2) for step in range(1, last + 1, covers)]
        return [batch.step for batch in batches if due(batch, every)]

    assert steps(10) == [1, 11, 21, 25]
    assert steps(1, last=3) == [1, 2, 3]
    assert steps(10, covers=4) == [1, 13, 21, 25]  # step 11 is trained on the batch of 9 to 12: the next one shows
    assert steps(100) == [1, 25]
    assert steps(100, last=1) == [1]


def test_rows_are_pairs_of_prompts_spread_over_the_batch():
    assert chosen(128, 8, 16) == [p * 16 + n for p in range(8) for n in (0, 1)]  # every second of 16 prompts
    assert chosen(8, 4, 16) == list(range(8))  # fewer completions than rows
    assert chosen(24, 8, 16) == [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20]  # five of each of three
    assert chosen(24, 8, 1) == [0] and chosen(24, 8, 3) == [0, 1, 2]


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 64))
def test_never_more_rows_than_asked_for(prompts, group, rows):
    found = chosen(prompts * group, group, rows)
    assert 0 < len(found) <= rows and found == sorted(set(found)) and found[-1] < prompts * group
    if prompts * group <= rows:
        assert found == list(range(prompts * group))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1024, 100_000))
def test_never_more_pixels_than_asked_for(width, height, pixels):
    picture = small(Image.new("RGB", (width, height)), pixels)
    w, h = picture.size
    assert w * h <= max(pixels, max(w, h))  # a strip keeps one pixel of its short side
    if width * height <= pixels:
        assert (w, h) == (width, height)
    elif min(w, h) > 20:
        assert w / h == pytest.approx(width / height, rel=0.1) and w * h > 0.8 * pixels


def test_a_picture_is_named_by_its_contents():
    red, blue = (small(Image.new("RGB", (64, 64), colour), 4096) for colour in ("red", "blue"))
    assert red.name != blue.name and red == small(Image.new("RGB", (64, 64), "red"), 4096)


def test_boxes_are_placed_in_the_small_picture_and_cut_to_it():
    assert placed([100, 50, 200, 150], (400, 200), (100, 50)) == [25, 12, 50, 38]
    assert placed([-8, 0, 900, 200], (400, 200), (100, 50)) == [0, 0, 100, 50]


def inputs(count, **columns):
    picture = Image.new("RGB", (300, 100), "green")
    return [{"images": [picture], "id": str(n), "size": [300, 100], **columns} for n in range(count)]


def test_each_process_tells_its_own_rows():
    """Two processes of 12 completions, three groups of 8: the second group stands in both."""
    here, there = (asked(inputs(12), Batch(1, 1, 9, 8, rank, 2), rows=6, pixels=1200) for rank in (0, 1))
    assert [one.place for one in here] == [0, 1, 8, 9] and [one.place for one in there] == [16, 17]
    assert [one.columns["id"] for one in there] == ["4", "5"]
    assert all(one.pictures[0].size == (60, 20) for one in here + there)  # 1200 of 30,000 pixels: a fifth of each side
    assert asked([{"prompt": "x"}], Batch(1, 1, 9, 1), 6, 1200)[0].pictures == []


def test_a_picture_is_made_small_once_for_its_group(monkeypatch):
    calls = []
    monkeypatch.setattr("stage.tracking.table.small", lambda picture, pixels: calls.append(1) or small(picture, pixels))
    asked(inputs(8), Batch(1, 1, 9, 4), 8, 4096)
    assert len(calls) == 1


COLUMNS = {"task": "grounding", "source": "s", "id": "1", "resized": None}
TRUTH = {"answer": None, "boxes": [[10.0, 20.0, 30.0, 40.0]], "quads": None, "size": (200, 100)}


def made(completion, reading=None, **columns):
    one = Asked(3, COLUMNS | TRUTH | columns, [small(Image.new("RGB", (200, 100)), 5000)])
    return row(one, Batch(7, 1, 9, 2), reading or Reading(), ("Q", completion), {"a": float("inf")}, 0.25)


def test_what_a_row_holds():
    found = made("<think>t</think><answer>(100,200),(200,500)</answer>")
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "step": 7, "row": 3, "group": 1, "task": "grounding", "source": "s", "id": "1", "prompt": "Q",
        "completion": "<think>t</think><answer>(100,200),(200,500)</answer>", "trace": "t",
        "answer": "(100,200),(200,500)", "read": [[20.0, 20.0, 40.0, 50.0]], "read_quads": None,
        "truth": {"answer": None, "boxes": [[10.0, 20.0, 30.0, 40.0]], "quads": None, "size": [200, 100]},
        "rewards": {"a": None}, "advantage": 0.25,
        "image": f"samples/{small(Image.new('RGB', (200, 100)), 5000).name}", "image_size": [100, 50], "further": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("completion", "reading", "columns", "read"),
    [
        ("(100,200),(200,500)", Reading(), {}, None),  # no answer without tags
        ("(100,200),(200,500)", Reading(tagged=False), {}, [[20.0, 20.0, 40.0, 50.0]]),
        ("<answer>the ship</answer>", Reading(), {}, None),
        ("<answer>(100,200),(200,500)</answer>", Reading(), {"size": None}, None),
        ("<answer>[[100,200,200,500]]</answer>", Reading("vhm"), {}, [[20.0, 20.0, 40.0, 50.0]]),
        # pixels of the resized picture, whose size the row tells, or does not
        ("<answer>50,50,100,100</answer>", Reading("rscovlm"), {"resized": [400, 200]}, [[25.0, 25.0, 50.0, 50.0]]),
        ("<answer>50,50,100,100</answer>", Reading("rscovlm"), {}, None),
    ],
)
def test_answers_are_read_in_the_recipes_notation(completion, reading, columns, read):
    assert made(completion, reading, **columns)["read"] == read


def test_oriented_answers_keep_their_corners():
    """10 × 20 pixels about (50, 50), turned by 90°: 20 × 10."""
    found = made("<answer>50,50,10,20,-90</answer>", Reading("rscovlm_obb"), resized=[200, 100])
    assert found["read"] == [pytest.approx([40, 45, 60, 55])]
    (quad,) = found["read_quads"]
    assert sorted(zip(quad[::2], quad[1::2], strict=True)) == [
        pytest.approx(corner, abs=1e-9) for corner in ((40, 45), (40, 55), (60, 45), (60, 55))
    ]


def test_objects_of_detection_keep_their_names_and_are_compared_within_their_class():
    """A box on the true ship that is called a plane is a miss, and must not be shown as a hit of IoU 1."""
    row = {"task": "detection", "labels": ["ship"], "classes": ["plane", "ship"]}
    text = "plane(50,200),(150,400)ships(50,200),(150,400)"
    found = made(text, Reading("qwen2_vl", tagged=False), **row)
    assert found["truth"]["labels"] == ["ship"] and found["read_labels"] == ["plane", "ship"]
    captions = [one["box_caption"] for one in overlays.overlays(found)["answer"]["box_data"]]
    assert captions == ["answer: plane, IoU 0.00", "answer: ship, IoU 1.00"]
    assert overlays.overlays(found)["truth"]["box_data"][0]["box_caption"] == "truth: ship"
    assert overlays.truth(found) == "10, 20, 30, 40 ship"


def test_the_score_of_a_box_is_its_iou_with_the_true_box_it_covers_best():
    found = made("<answer>(50,200),(150,400),(500,500),(600,600)</answer>", boxes=[[0, 0, 5, 5], [10, 20, 30, 40]])
    boxes = overlays.overlays(found)["answer"]["box_data"]
    assert [box["scores"]["iou"] for box in boxes] == [1.0, 0.0]
    assert boxes[0]["box_caption"] == "answer, IoU 1.00"
    assert overlays.overlays(made("nothing", boxes=None)) is None


def test_true_texts():
    assert overlays.truth(made("x", answer="two")) == "two"
    assert overlays.truth(made("x")) == "10, 20, 30, 40"
    assert overlays.truth(made("x", boxes=None)) is None


CALL = '<think>t</think>\n<tool_call>\n{"name": "image_zoom_in", "arguments": {"bbox": [0, 0, 500, 500]}}\n</tool_call>'
TURNS = [
    {"role": "assistant", "content": CALL},
    {"role": "tool", "content": "<image>This is that region. Go on."},
    {"role": "assistant", "content": "<think>u</think><answer>red</answer>"},
]


def conversation(tmp_path, **columns):
    """Two rows of a model with tools: one looks at the left half of 300 x 100 pixels, red and else blue."""
    picture = Image.new("RGB", (300, 100), "blue")
    picture.paste("red", (0, 0, 150, 100))
    picture.save(tmp_path / "p.png")
    crop = {"turn": 1, "image": 0, "box": [0, 0, 150, 100], "size": [168, 112]}
    common = {"images": [picture], "image_names": [str(tmp_path / "p.png")], "task": "vqa", "size": None, **columns}
    return [common | {"turns": TURNS, "crops": [crop]}, common | {"turns": TURNS[2:], "crops": []}]


def test_regions_are_cut_from_the_original_within_the_bound(tmp_path):
    one, other = asked(conversation(tmp_path, regions=[[1, 2, 3, 4]]), Batch(1, 1, 9, 2), 2, 1200, tools=True)
    (crop,) = one.chain.crops
    assert crop.where == {"turn": 1, "image": 0, "box": [0, 0, 150, 100], "size": [168, 112], "of": [300, 100]}
    assert crop.picture.size == (42, 28) and crop.picture in one.files  # 15,000 pixels to at most 1200
    assert Image.open(io.BytesIO(crop.picture.content)).getpixel((40, 14)) == pytest.approx((254, 0, 0), abs=6)
    assert (other.chain.turns, other.chain.crops, other.chain.regions) == (TURNS[2:], [], [[1, 2, 3, 4]])


def test_a_picture_that_is_gone_costs_its_region_alone(tmp_path, caplog):
    rows = conversation(tmp_path)
    (tmp_path / "p.png").unlink()
    one, _ = asked(rows, Batch(1, 1, 9, 2), 2, 1200, tools=True)
    assert [crop.picture for crop in one.chain.crops] == [None] and "p.png: no such file" in caplog.text
    found = row(one, Batch(1, 1, 9, 2), Reading(), ("Q", "…"), {}, 0.0)
    assert found["crops"][0]["file"] is None and overlays.boxes_of(found) == {}


def test_a_conversation_as_a_row_holds_it(tmp_path):
    """What is read is the last turn, not a call's. Without tools a row has none of these keys."""
    one, other = asked(conversation(tmp_path), Batch(1, 1, 9, 2), 2, 1200, tools=True)
    text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in TURNS)
    found = json.loads(json.dumps(row(one, Batch(1, 1, 9, 2), Reading(), ("Q", text), {}, 0.0)))
    assert (found["completion"], found["trace"], found["answer"]) == (text, "u", "red")
    assert found["turns"] == TURNS and found["regions"] is None
    (crop,) = found["crops"]
    assert crop["file"] == f"samples/{one.files[1].name}" and pictured(found) == [found["image"], crop["file"]]
    assert overlays.boxes_of(found) == {"zoom": [[0, 0, 30, 20]]}  # of 60 x 20
    assert not {"turns", "crops", "regions"} & made("x").keys()


def test_regions_are_overlays_with_their_numbers():
    """The second of three is of another picture, and not drawn; classes of runs without tools stay as they are."""
    boxes = [[20, 10, 40, 30], [0, 0, 8, 8], [100, 50, 160, 90]]
    crops = [Crop({"turn": 1, "image": n % 2, "box": box, "of": [200, 100]}, None) for n, box in enumerate(boxes)]
    one = Asked(3, COLUMNS | TRUTH, [small(Image.new("RGB", (200, 100)), 5000)], Chain(TURNS, crops))
    found = overlays.overlays(row(one, Batch(7, 1, 9, 2), Reading(), ("Q", "A"), {}, 0.25))
    drawn = [(box["box_caption"], box["class_id"], [*box["position"].values()]) for box in found["zoom"]["box_data"]]
    assert drawn == [("zoom 1", 2, [10, 5, 20, 15]), ("zoom 3", 2, [50, 25, 80, 45])]
    assert found["truth"]["class_labels"] == found["zoom"]["class_labels"] == {0: "truth", 1: "answer", 2: "zoom"}
    assert overlays.overlays(made("x"))["truth"]["class_labels"] == {0: "truth", 1: "answer"}


def test_regions_stand_beside_the_picture_where_it_is_drawn(tmp_path):
    """As trackio gets it: outlined at 0 to 30 of 60 pixels, the crop and its caption in a column of their own."""
    samples = Samples(Run(tmp_path), SampleSection())
    found = asked(conversation(tmp_path), Batch(1, 1, 9, 2), 2, 1200, tools=True)
    lines = [row(one, Batch(1, 1, 9, 2), Reading(), ("Q", "A"), {"a": 1.0}, 0.0) for one in found]
    samples.write(lines, found)
    tracker = SimpleNamespace(Image=lambda value, caption=None: (value, caption), Table=lambda **given: given)
    table = overlays.table(lines, tracker, tmp_path, overlaid=False)
    first, second = (dict(zip(table["columns"], cells, strict=True)) for cells in table["data"])
    picture, _ = first["image"]
    assert picture.getpixel((29, 12)) == ImageColor.getrgb(ZOOMED) != second["image"][0].getpixel((29, 12))
    ((file, caption),) = first["crops"]
    assert Image.open(file).size == (42, 28) and caption == "zoom 1 of picture 1: 0, 0, 150, 100"
    assert second["crops"] == [] and table["columns"][:3] == ["image", "crops", "step"]
    plain = overlays.table([made("x") | {"image": None, "rewards": {}}], tracker, tmp_path, overlaid=False)
    assert "crops" not in plain["columns"]


def test_lines_and_pictures_in_the_run_folder(tmp_path):
    """A run that is resumed at step 3 makes what came after anew; a line torn by the kill is gone."""
    run = Run(tmp_path)
    samples = Samples(run, SampleSection(rows=2, every=1, pixels=1024))
    told = lambda: lambda place: (("Q", f"answer {place}"), {"a": 1.0}, 0.0)  # noqa: E731
    for step in range(1, 6):
        samples.take(Batch(step, 1, 9, 2), inputs(4), told, lambda rows: rows)
    path = tmp_path / "samples.jsonl"
    before = path.read_text()
    path.write_text(before + '{"step": 6, "ro')
    samples.rewind(3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 1, 2, 2, 3, 3]
    for step in range(4, 6):
        samples.take(Batch(step, 1, 9, 2), inputs(4), told, lambda rows: rows)
    assert path.read_text() == before
    (picture,) = (tmp_path / "samples").iterdir()  # the same at every step
    assert json.loads(before.splitlines()[0])["image"] == f"samples/{picture.name}"
    with Image.open(picture) as opened:
        assert opened.size[0] * opened.size[1] <= 1024
    run = Run.create(tmp_path, {}, overwrite=True)
    assert not path.exists() and not picture.exists()


def test_no_table_and_other_processes_write_nothing(tmp_path):
    gathered = []
    nobody = Samples(Run(tmp_path), None)
    nobody.take(Batch(1, 1, 9, 2), inputs(2), None, gathered.extend)
    other = Samples(Run(tmp_path, main=False), SampleSection())
    other.take(Batch(1, 1, 9, 2, 1, 2), inputs(2), None, lambda rows: gathered.extend(rows) or gathered)
    assert [one.place for one in gathered] == [2, 3] and not list(tmp_path.iterdir())


def test_what_trl_has_noted_is_found_from_the_end():
    """Two processes, two completions each; columns hold an earlier batch before. One column is an earlier batch's."""
    logs = {
        "prompt": ["old"] * 4 + [f"p{n}" for n in range(4)],
        "completion": ["old"] * 4 + [f"c{n}" for n in range(4)],
        "rewards": {"iou": [9.0] * 4 + [0.0, 0.1, 0.2, 0.3]},
        "advantages": [9.0] * 4 + [-1.0, 0.0, 1.0, 2.0],
        "extra": {"reward_raw/task": [None] * 4 + [0.5] * 4, "answer": ["x"] * 8, "gone": [1.0] * 4},
    }
    accelerator = SimpleNamespace(num_processes=2, process_index=1)
    trainer = SimpleNamespace(_logs=logs, _noted={"reward_raw/task", "answer"}, accelerator=accelerator)
    assert logged(trainer, 2)(3) == (("p3", "c3"), {"iou": 0.3, "reward_raw/task": 0.5}, 2.0)
    args = SimpleNamespace(steps_per_generation=8, gradient_accumulation_steps=4)
    state = SimpleNamespace(global_step=12, max_steps=100)
    trainer = SimpleNamespace(args=args, accelerator=accelerator, state=state, num_iterations=3, num_generations=8)
    assert batch_of(trainer) == Batch(step=13, covers=6, last=100, group=8, rank=1, processes=2)


@pytest.mark.parametrize("values", [{"rows": 0}, {"every": 0}, {"pixels": 1000}])
def test_bounds_that_bound_nothing_are_refused(values):
    with pytest.raises(ValidationError, match="write `samples: null` for no table"):
        SampleSection(**values)
