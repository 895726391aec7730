"""samples: write → read gives the same, and no row, however odd, gives anything but a sample or a fault."""

import contextlib
import io
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import samples
from samples import Faults, Sample
from tests.support.sample_rows import dump, put_images, row, turns
from vlm.common.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return put_images(tmp_path)


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
        regions=draw(st.none() | st.lists(BOX, min_size=1, max_size=2)),
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


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    asked = Sample([], turns("what?"), "open_ended")
    assert samples.write(path, [asked]) == 1
    before = path.read_bytes()

    def broken():
        yield asked
        raise OSError("no more rows")

    with pytest.raises(OSError, match="no more rows"):
        samples.write(path, broken())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_importing_samples_is_cheap():
    code = "import sys, samples, evals.comparing.compare; print({'torch', 'transformers', 'trl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
