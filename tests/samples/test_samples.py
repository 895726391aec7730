"""samples: every layout becomes the same record."""

import pytest

import samples
from samples import Sample
from tests.support.sample_rows import dump, put_images, row, turns
from vlm.common.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return put_images(tmp_path)


def test_our_jsonl(folder):
    path = dump(folder / "mine.jsonl", [row(), row(id="x", source="s", kind="dam", size=[200, 100])])
    first, second = samples.read(path)
    assert first == Sample(
        images=[str(folder / "a.png")],
        messages=[{"role": "user", "content": "the dam"}],
        task="grounding",
        boxes=[[10.0, 20.0, 90.0, 80.0]],
        size=(200, 100),
        source="mine",
        id="#1",
    )
    assert (second.id, second.source, second.kind) == ("x", "s", "dam")


def test_vg_dior_boxes_are_pixels(folder):
    path = dump(folder / "test.json", [{"image": "a.png", "conversations": turns()}])
    (sample,) = samples.read(path, "vg_dior")
    assert sample.boxes == [[10.0, 20.0, 90.0, 80.0]] and sample.size == (200, 100)
    assert sample.images == [str(folder / "test" / "a.png")]  # no image_path: the folder named after the stem
    assert sample.task == "grounding" and sample.answer is None
    assert sample.messages == [{"role": "user", "content": "the dam"}]  # pixel text stays out of prompts


def test_vhm_boxes_are_per_mille(folder):
    said = [
        turns(answer="[[012,025,112,100]]"),
        turns("<image>\nDescribe.", "A dam."),
        turns(answer="[[1,2,3]]"),
    ]
    path = dump(folder / "sft.json", [{"image": "a.png", "conversation": each} for each in said[:2]])
    box, text = samples.read(path, "vhm")
    # 12 / 1000 of 200 px is 2.4 px; 25 / 1000 of 100 px is 2.5 px
    assert box.boxes == [pytest.approx([2.4, 2.5, 22.4, 10.0])]
    assert (text.task, text.answer, text.boxes) == ("open_ended", "A dam.", None)
    assert text.messages[-1] == {"role": "assistant", "content": "A dam."}
    path = dump(folder / "sft.json", [{"image": "a.png", "conversation": said[2]}])
    with pytest.raises(DataError, match=r"sft.json, row 1, field 'conversations': found '\[\[1,2,3\]\]'"):
        list(samples.read(path, "vhm", task="grounding"))


def test_zero_padded_boxes_are_not_pixels(folder):
    path = dump(folder / "test.json", [{"image": "a.png", "conversations": turns(answer="[[012,025,112,100]]")}])
    with pytest.raises(DataError, match="zero-padded: format vhm"):
        list(samples.read(path, "vg_dior"))


def test_a_frame_is_never_guessed(folder):
    rows = [{"image": "a.png", "conversations": turns("<image>\nHow many?", "2")}] * 3
    path = dump(folder / "test.json", rows)
    assert [sample.answer for sample in samples.read(path, task="vqa")] == ["2"] * 3
    for boxed in ("[10,20,90,80]", "[[012,025,112,100]]", "<answer>(1,2),(3,4)</answer>"):
        dump(path, [*rows, {"image": "a.png", "conversations": turns(answer=boxed)}])
        with pytest.raises(DataError, match="(?s)its content fits several formats.*vg_dior.*pixels.*vhm.*per mille"):
            samples.read(path)


def test_conversations_need_a_task_and_read_extras(folder):
    extras = {"question_id": 7, "type": ["1", "11"], "choices": ["harbor", "airport"], "size": [100, 200]}
    path = dump(folder / "test.json", [{"image": "a.png", "conversations": turns("<image>\nWhat?", "B"), **extras}])
    with pytest.raises(DataError, match="field 'task': found none, expected a task in the row or in the source"):
        list(samples.read(path))
    (sample,) = samples.read(path, task="choice")
    assert (sample.id, sample.kind, sample.choices) == ("7", "1,11", ["harbor", "airport"])
    assert sample.size == (200, 100)  # the file's (h, w) is compared with the image, not believed
    dump(
        path,
        [{"image": "a.png", "conversations": turns("<image>\nWhat?", "B"), **extras, "size": [100, 100]}],
    )
    with pytest.raises(DataError, match="field 'size'"):
        list(samples.read(path, task="choice"))


@pytest.mark.parametrize("keys", [("from", "value", "human", "gpt"), ("role", "content", "user", "assistant")])
def test_sharegpt_traces(folder, keys):
    who, what, human, gpt = keys
    trace = "<think>Water on the left.</think>\n<answer>dam</answer>"
    said = [{who: human, what: "<image>What is it?"}, {who: gpt, what: trace}]
    path = dump(folder / "sft.json", [{"messages": said, "images": ["images/a.png"]}])
    (sample,) = samples.read(path)
    assert sample.messages == [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": trace},
    ]
    assert (sample.task, sample.answer) == ("open_ended", "dam")
    assert sample.images == [str(folder / "images" / "a.png")]


def test_format_detection(folder):
    user = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = dump(folder / "x.jsonl", [{"messages": user, "images": []}])
    with pytest.raises(DataError, match="(?s)name one of these:.*nadir.*sharegpt"):
        samples.read(path)
    assert next(samples.read(path, "sharegpt")).answer == "a"
    assert next(samples.read(path, "nadir", task="caption")).task == "caption"
    assert next(samples.read(dump(folder / "x.json", [row()]))).task == "grounding"  # a JSON list of our rows
    with pytest.raises(DataError, match=r"unknown layout \(keys of the first row: question\)"):
        samples.read(dump(path, [{"question": "?"}]))
    with pytest.raises(DataError, match="found the format 'voc', expected one of"):
        samples.read(path, "voc")


def test_where_images_are_looked_for(folder):
    rows = [{"image": "a.png", "image_path": "other", "conversations": turns()}]
    path = dump(folder / "test.json", rows)
    assert next(samples.read(path, "vg_dior")).images == [str(folder / "other" / "a.png")]
    assert next(samples.read(path, "vg_dior", images=folder / "images")).images == [str(folder / "images" / "a.png")]
    rows[0]["image_path"] = str(folder / "images")
    assert next(samples.read(dump(path, rows), "vg_dior")).images == [str(folder / "images" / "a.png")]
    rows[0]["image_path"] = "gone"  # a declared folder that is missing is not replaced by another a.png
    with pytest.raises(DataError, match="gone/a.png', expected an image file that exists"):
        next(samples.read(dump(path, rows), "vg_dior"))
    with pytest.raises(DataError, match="image folder .* does not exist"):
        samples.read(path, "vg_dior", images=folder / "nowhere")


@pytest.mark.parametrize(
    "said",
    [
        turns("What?", "<image> a dam"),
        turns("<image><image>\nWhat?", "x"),
        [*turns("<image>\nWhat?", "x"), {"from": "human", "value": "<image> and this?"}],
    ],
)
def test_image_tags_without_a_picture_are_faults(folder, said):
    path = dump(folder / "test.json", [{"image": "a.png", "conversations": said}])
    with pytest.raises(DataError, match="<image>"):
        list(samples.read(path, task="vqa"))


def test_quads_bring_their_boxes_cut_to_the_image(folder):
    quad = [10, -5, 30, 10, 20, 30, 0, 15]
    (sample,) = samples.read(dump(folder / "rows.jsonl", [row(boxes=None, quads=[quad])]))
    assert sample.boxes == [[0, 0, 30, 30]] and sample.quads == [quad]
    samples.write(folder / "again.jsonl", [sample])
    assert list(samples.read(folder / "again.jsonl"))[0].quads == sample.quads


@pytest.mark.parametrize(
    "quad, said",
    [
        ([10, 10, 20, 20, 20, 10, 10, 20], "four corners in order"),  # edges cross
        ([10, 10, 20, 20, 30, 30, 40, 40], "four corners in order"),  # on one line
        ([210, 10, 220, 10, 220, 20, 210, 20], "meets the image"),
        ([10, 10, 20, 20], "x4, y4"),
    ],
)
def test_a_quad_without_area_or_off_the_image_is_a_fault(folder, quad, said):
    with pytest.raises(DataError, match=said):
        list(samples.read(dump(folder / "rows.jsonl", [row(boxes=None, quads=[quad])])))
