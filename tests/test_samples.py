"""vlm.samples: every layout becomes the same record; faulty rows are named or counted, never passed on."""

import contextlib
import io
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm import samples
from vlm.errors import DataError
from vlm.samples import Faults, Sample


@pytest.fixture
def folder(tmp_path):
    """A folder with images of 200 x 100 pixels under several of the layouts' image folders."""
    for name in ("a.png", "images/a.png", "test/a.png", "other/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (200, 100)).save(tmp_path / name)
    return tmp_path


def turns(question="<image>\nthe dam", answer="[10,20,90,80]"):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def dump(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return path


def row(**changes):
    good = {
        "images": ["a.png"],
        "messages": [{"role": "user", "content": "the dam"}],
        "task": "grounding",
        "boxes": [[10, 20, 90, 80]],
    }
    return {key: value for key, value in (good | changes).items() if value is not ...}


# --- layouts ----------------------------------------------------------------------


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
        with pytest.raises(DataError, match="(?s)cannot be told by content.*vg_dior.*pixels.*vhm.*per mille"):
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
def test_image_tags_that_would_move_are_faults(folder, said):
    path = dump(folder / "test.json", [{"image": "a.png", "conversations": said}])
    with pytest.raises(DataError, match="<image>"):
        list(samples.read(path, task="vqa"))


# --- faults -----------------------------------------------------------------------

FAULTS = [
    ("unknown_task", row(task="groundng"), r"field 'task': found 'groundng', expected one of grounding, vqa"),
    ("missing_field", row(task=...), "field 'task': found none"),
    ("missing_field", row(messages=...), "field 'messages': found none"),
    ("missing_field", row(images=...), "field 'images': found none"),
    ("missing_image", row(images=["gone.png"]), r"found '/.*/gone.png', expected an image file that exists"),
    ("missing_image", row(images=[], size=[9, 9], boxes=[[1, 1, 2, 2]]), "grounding needs one"),
    ("unreadable_image", row(images=["notes.png"]), "not an image file"),
    ("unreadable_image", row(images=["data:;base64,%%"]), "base64"),
    ("no_boxes", row(boxes=...), "field 'boxes': found None, expected at least one box"),
    ("no_boxes", row(boxes=[]), "at least one box"),
    ("box_inverted", row(boxes=[[90, 20, 10, 80]]), r"found \[90.0, 20.0, 10.0, 80.0\], inverted or empty"),
    ("box_inverted", row(boxes=[[10, 20, 10, 80]]), "expected x1 < x2"),
    ("box_outside", row(boxes=[[10, 20, 200.01, 80]]), "inside the image, 0 to 200 and 0 to 100"),
    ("box_outside", row(boxes=[[-0.01, 20, 20, 80]]), "inside the image"),
    ("box_outside", row(boxes=[[10, 20, 30, 100.01]]), "inside the image"),
    ("box_outside", row(boxes=[[10, 20, float("nan"), 80]]), "finite"),
    ("box_outside", row(boxes=[[10, 20, 10**400, 80]]), "finite"),
    ("size_mismatch", row(size=[100, 200]), r"found \[100, 200\], expected the image's own \[200, 100\]"),
    ("wrong_type", row(size=[200, True]), "field 'size'"),
    ("wrong_type", row(boxes=[10, 20, 90, 80]), "field 'boxes': found 10"),
    ("wrong_type", row(boxes=[["10", 20, 90, 80]]), "field 'boxes'"),
    ("wrong_type", row(images="a.png"), "field 'images': found 'a.png', expected a list of paths"),
    ("wrong_type", row(task="vqa", answer=3), "field 'answer': found 3, expected text"),
    ("wrong_type", row(task="vqa", answer="\ud800"), "valid Unicode"),
    ("wrong_type", row(messages=["hi"]), r"field 'messages\[1\]'"),
    ("conversation", row(messages=[{"role": "assistant", "content": "x"}]), "expected 'user'"),
    ("conversation", row(messages=[]), "at least one user turn"),
    ("image_tag", row(messages=[{"role": "user", "content": "<image> x"}]), "no <image> tags"),
    ("missing_field", row(task="vqa"), "field 'answer'"),
    ("missing_field", row(task="vqa", answer=" . "), "field 'answer'"),
    ("missing_field", row(task="choice", answer="A"), "field 'choices'"),
    ("choices", row(task="choice", answer="A", choices=["Dam", "dam."]), "different texts"),
    ("not_a_choice", row(task="choice", answer="C", choices=["dam", "port"]), "field 'answer': found 'C'"),
    ("wrong_type", [1, 2], "a JSON object"),
]


@pytest.mark.parametrize(("kind", "bad", "message"), FAULTS)
def test_a_faulty_row_is_named_or_skipped_and_counted(folder, kind, bad, message):
    (folder / "notes.png").write_text("no image")
    path = dump(folder / "mine.jsonl", [row(), bad, row()])
    with pytest.raises(DataError, match=rf"mine.jsonl, line 2, .*{message}"):
        list(samples.read(path))
    faults = Faults()
    assert [sample.id for sample in samples.read(path, on_fault="skip", faults=faults)] == ["#1", "#3"]
    assert (faults.rows, faults.kept, faults.skipped, dict(faults.kinds)) == (3, 2, 1, {kind: 1})
    assert "line 2" in faults.examples[kind] and "3 rows = 2 kept + 1 skipped" in str(faults)


def test_edges_belong_to_the_image(folder):
    path = dump(folder / "m.jsonl", [row(boxes=[[0, 0, 200, 100], [-0.0009, 0, 200.0009, 100]])])
    assert len(next(samples.read(path)).boxes) == 2


def test_headers_are_opened_only_when_asked_or_needed(folder):
    (folder / "notes.png").write_text("no image")
    vqa = row(images=["notes.png"], task="vqa", answer="yes", boxes=...)
    path = dump(folder / "m.jsonl", [vqa, row(images=["notes.png"], size=[200, 100]), row()])
    assert [s.size for s in samples.read(path, verify_images=False)] == [None, (200, 100), (200, 100)]
    with pytest.raises(DataError, match="line 1, field 'images': .*notes.png: cannot be read"):
        next(samples.read(path))


def test_lines_that_are_no_json(folder):
    good = json.dumps(row()).encode()
    deep = b"[" * 50_000
    path = folder / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\n{" + deep + b"\n\xff\xfe\n{'a': 1}\n" + good)
    faults = Faults()
    assert [sample.id for sample in samples.read(path, on_fault="skip", faults=faults)] == ["#1", "#6"]
    assert dict(faults.kinds) == {"json": 3} and faults.rows == 5  # the empty line is no row
    with pytest.raises(DataError, match=r"m.jsonl, line 3, field '\(whole row\)'"):
        list(samples.read(path))


def test_whole_files_that_are_wrong(folder):
    with pytest.raises(DataError, match="gone.jsonl: no such file"):
        samples.read(folder / "gone.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        samples.read(folder)
    (folder / "x.json").write_text('[{"a": 1},')
    with pytest.raises(DataError, match="x.json: found text that is no JSON"):
        samples.read(folder / "x.json")
    path = dump(folder / "m.jsonl", [row(task="x"), row(task="y")])
    with pytest.raises(DataError, match="all 2 rows are faulty; .*line 1, field 'task'"):
        list(samples.read(path, on_fault="skip"))
    with pytest.raises(DataError, match="found the task 'x' for this source"):
        samples.read(path, task="x")
    path.write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        list(samples.read(path, "nadir"))


def test_jsonl_is_streamed(folder):
    path = dump(folder / "m.jsonl", [row(), row(task="x")])
    stream = samples.read(path)
    assert next(stream).id == "#1"
    with pytest.raises(DataError, match="line 2"):
        next(stream)


# --- round trip and fuzzing -------------------------------------------------------


def png(width, height):
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda text: "<image>" not in text)
BOX = st.tuples(st.floats(0, 99), st.floats(0, 49), st.floats(0.01, 100), st.floats(0.01, 50)).map(
    lambda b: [b[0], b[1], min(b[0] + b[2], 200.0), min(b[1] + b[3], 100.0)]
)
CHAT = st.lists(TEXT, min_size=1, max_size=4).map(
    lambda texts: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
)


@st.composite
def good_samples(draw):
    task = draw(st.sampled_from(["grounding", "choice", "open_ended", "caption"]))
    return Sample(
        images=draw(st.sampled_from([[png(200, 100)], [png(200, 100), png(3, 4)]])),
        messages=draw(CHAT),
        task=task,
        answer=draw(st.sampled_from(["A", "harbor"])) if task == "choice" else draw(st.none() | TEXT),
        boxes=draw(st.lists(BOX, min_size=1, max_size=3)) if task == "grounding" else None,
        size=(200, 100),
        choices=["harbor", "airport"] if task == "choice" else None,
        source=draw(TEXT.filter(bool)),
        id=draw(TEXT.filter(bool)),
        kind=draw(st.none() | TEXT.filter(bool)),
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(good_samples(), min_size=1, max_size=4))
def test_write_then_read_gives_the_same(tmp_path, written):
    path = tmp_path / "x.jsonl"
    assert samples.write(path, written) == len(written)
    assert list(samples.read(path)) == written


def test_written_images_move_with_their_folder(folder):
    path, inside = folder / "images" / "x.jsonl", str(folder / "images" / "a.png")
    outside = str(folder / "a.png")
    chat = [{"role": "user", "content": "q"}]
    samples.write(path, [Sample([inside, outside], chat, "caption", size=(200, 100))])
    assert json.loads(path.read_text())["images"] == ["a.png", outside]
    assert next(samples.read(path)).images == [inside, outside]


def test_a_failed_write_leaves_the_old_file(folder):
    path = dump(folder / "m.jsonl", [row()])

    def broken():
        yield next(samples.read(path))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        samples.write(path, broken())
    assert len(list(samples.read(path))) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("a.png"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "images",
    "image",
    "image_path",
    "messages",
    "conversations",
    "task",
    "answer",
    "boxes",
    "size",
    "choices",
]
SAID = [
    "[1,2,3,4]",
    "[[001,002,003,004]]",
    "[]",
    "[[]]",
    "[9,9,1,1]",
    "<answer>[1,2,3,4]</answer>",
    "{",
    "B",
    "",
]
ROWS = st.builds(
    lambda base, changes: base | changes,
    st.sampled_from([row(), *({"image": "a.png", "conversations": turns(answer=text)} for text in SAID)]),
    st.dictionaries(st.sampled_from([*KEYS, "id", "kind", "type", "source"]), JSON, max_size=2),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ROWS | JSON, min_size=1, max_size=3),
    st.sampled_from([None, *samples.FORMATS]),
    st.sampled_from([None, *samples.TASKS]),
)
def test_fuzzed_rows_give_samples_or_data_errors(folder, rows, format, task):
    path = dump(folder / "fuzz.jsonl", rows)
    faults = Faults()
    good = []
    with contextlib.suppress(DataError):
        good = list(samples.read(path, format, task=task, on_fault="skip", faults=faults))
        assert faults.rows == faults.kept + faults.skipped == len(rows) and faults.kept == len(good)
    for sample in good:
        for x1, y1, x2, y2 in sample.boxes or []:
            assert x1 < x2 and y1 < y2 and x2 <= sample.size[0] + 1e-3 and y2 <= sample.size[1] + 1e-3


def test_importing_samples_is_cheap():
    code = "import sys, vlm.samples, evals.compare; print({'torch', 'transformers', 'trl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
