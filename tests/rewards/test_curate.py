"""Curation from file to file: what is kept, what is scored again after a kill, what is held in memory."""

from __future__ import annotations

import json
import re
import sys
import tracemalloc

import pytest
import yaml
from PIL import Image

import samples
from rewards.curate import stage
from rewards.curate.recipe import CurateRecipe
from stage.recipe import config
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, run, two_processes
from tests.support.sample_rows import dump, turns
from vlm.common.errors import DataError, UserError


class Numbers:
    """Scores an answer by the number in it; keeps what it was asked, and breaks where told."""

    def __init__(self, breaks_at=None):
        self.asked, self.batches, self.breaks_at = [], [], breaks_at

    def score(self, exchanges):
        if self.breaks_at is not None and len(self.asked) >= self.breaks_at:
            raise KeyboardInterrupt
        said = [exchange.messages[-1]["content"] for exchange in exchanges]
        for text in said:
            if "broken" in text:
                raise DataError("image x.png: cannot be read (cut short)")
        self.asked += said
        self.batches.append(len(said))
        return [float(re.search(r"-?\d+", text)[0]) for text in said]


def caption(number, **more):
    return {
        "image": "a.png",
        "extra": {"z": [1.5e-7, None]},
        "conversations": turns("<image>", f"a dam {number}"),
    } | more


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "data/a.png")
    return tmp_path


def corpus(folder, numbers, name="captions.json"):
    return dump(folder / "data" / name, [caption(n) for n in numbers])


def recipe(folder, *paths, **changes):
    file = folder / "curate.yaml"
    train = [{"path": str(path), "format": "conversations", "task": "caption"} for path in paths]
    file.write_text(yaml.safe_dump({"output": str(folder / "run"), "by": "random", "data": {"train": train}}))
    return config.load(file, CurateRecipe, [f"{key}={value}" for key, value in {"chunk": 4, **changes}.items()])


def curate(recipe, scorer=None):
    return stage.run(recipe, load=lambda: scorer or Numbers())


def kept(folder, name="captions.json"):
    text = (folder / "run/kept" / name).read_text()
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["captions.json", "captions.jsonl"])
def test_the_best_rows_as_they_were_plus_their_score(folder, name):
    """3 of 10, in the order and format of the file, every field in its place."""
    path = corpus(folder, [3, 9, 1, 8, 0, 2, 7, 4, 6, 5], name)
    report = curate(recipe(folder, path))
    rows = kept(folder, name)
    assert rows == [caption(n) | {"score": float(n)} for n in (9, 8, 7)]
    assert [list(row) for row in rows] == [["image", "extra", "conversations", "score"]] * 3
    assert (report.total("rows"), report.total("scored"), report.total("kept")) == (10, 10, 3)
    read = list(samples.read(folder / "run/kept" / name, "conversations", folder / "data", "caption"))
    assert [sample.answer for sample in read] == ["a dam 9", "a dam 8", "a dam 7"]
    finished = json.loads((folder / "run/finished.json").read_text())
    assert (finished["rows"], finished["scored"], finished["kept"]) == (10, 10, 3)


def test_shares_of_each_source_and_of_all(folder):
    one, two = corpus(folder, range(10), "one.json"), corpus(folder, range(100, 104), "two.jsonl")
    report = curate(recipe(folder, one, two, **{"keep.share": 0.5}))
    assert [line.kept for line in report.lines] == [3, 4]  # 7 of 14: all of two, the best 3 of one
    assert [row["score"] for row in kept(folder, "one.json")] == [7, 8, 9]
    scorer = Numbers()
    both = {"keep.share": 0.5, "keep.per_source": "true", "overwrite": "true"}
    report = curate(recipe(folder, one, two, **both), scorer)
    assert [line.kept for line in report.lines] == [5, 2] and scorer.asked == [], "the scores are there already"
    table = (folder / "run/table.md").read_text()
    assert "| one.json | 10 | 0 | 10 | 5 | 50.0% | 4.5 | 7 | 5 |" in table
    assert "| all | 14 | 0 | 14 | 7 | 50.0% |" in table and "the best 50% of each source" in table
    train = yaml.safe_load(re.search(r"```yaml\n(.*?)```", table, re.DOTALL)[1])["data"]["train"]
    rows = [s for source in train for s in samples.read(source.pop("path"), **source)]
    assert [sample.answer for sample in rows] == [f"a dam {n}" for n in (5, 6, 7, 8, 9, 102, 103)]


def test_the_report_shows_the_best_and_the_worst(folder):
    curate(recipe(folder, corpus(folder, range(20)), examples=3))
    found = [json.loads(line) for line in (folder / "run/examples.jsonl").read_text().splitlines()]
    assert [(row["end"], row["score"]) for row in found] == [
        *(("best", s) for s in (19, 18, 17)),
        *(("worst", s) for s in (0, 1, 2)),
    ]
    assert found[0]["where"].endswith("captions.json, row 20") and found[0]["messages"][-1]["content"] == "a dam 19"
    for name in ("scores.png", "examples.png"):
        with Image.open(folder / "run" / name) as picture:
            assert min(picture.size) > 300 and len(picture.convert("RGB").getcolors(1 << 24)) > 20


@pytest.mark.parametrize("name", ["captions.json", "captions.jsonl"])
def test_a_killed_run_scores_the_rest_and_nothing_twice(folder, name):
    """Killed after two batches of 4, with half a line written."""
    wanted = recipe(folder, corpus(folder, range(11), name))
    first = Numbers(breaks_at=8)
    with pytest.raises(KeyboardInterrupt):
        curate(wanted, first)
    (part,) = (folder / "run/scores").glob("*.0.jsonl")
    assert part.read_text().count("\n") == 2
    with part.open("a") as file:
        file.write('{"source": 0, "rows": [9')
    second = Numbers()
    report = curate(wanted, second)
    assert (len(first.asked), len(second.asked), report.total("scored")) == (8, 3, 11)
    assert sorted(first.asked + second.asked) == sorted(f"a dam {n}" for n in range(11))
    assert [row["score"] for row in kept(folder, name)] == [8, 9, 10]
    with pytest.raises(UserError, match="holds a finished run"):
        curate(wanted, Numbers())


def test_other_data_are_scored_anew(folder):
    path = corpus(folder, range(6))
    curate(recipe(folder, path))
    corpus(folder, [9, 1, 2, 3, 4, 5])
    scorer = Numbers()
    curate(recipe(folder, path, overwrite="true"), scorer)
    assert len(scorer.asked) == 6 and kept(folder)[0]["score"] == 9


def faulty(folder):
    """A missing image at row 3, one that does not decode at row 6, a row without answer at 8."""
    rows = [caption(n) for n in range(10)]
    rows[2]["image"] = "gone.png"
    rows[5] = caption("broken 99")
    rows[7]["conversations"] = turns()[:1]
    return dump(folder / "data/captions.json", rows)


def test_faulty_rows_are_left_out_and_counted(folder):
    path = faulty(folder)
    scorer = Numbers()
    report = curate(recipe(folder, path, **{"data.on_fault": "skip", "keep.share": 1}), scorer)
    assert [row["score"] for row in kept(folder)] == [0, 1, 3, 4, 6, 8, 9]
    assert (report.total("rows"), report.total("skipped"), report.total("scored")) == (10, 3, 7)
    faults = (folder / "run/table.md").read_text()
    assert "10 rows = 7 kept + 3 skipped" in faults
    for kind, message in [
        ("missing_image", r"captions.json, row 3, field 'images': found .*gone.png"),
        ("not_scored", r"captions.json, row 6: image x.png: cannot be read \(cut short\)"),
        ("no_answer", r"captions.json, row 8: captions, sample #8: no answer"),
    ]:
        assert re.search(rf"{kind}: 1 \(first: .*{message}", faults)
    # 0, 1, 3, 4 | 5 (broken), 6, 8, 9: only the rows beside the broken one are asked for by themselves
    assert scorer.batches == [4, 1, 1, 1]


def test_a_faulty_row_ends_the_run_and_what_was_scored_stays(folder):
    path = faulty(folder)
    scorer = Numbers()
    with pytest.raises(DataError, match=r"captions.json, row 3, field 'images'.*data.on_fault=skip"):
        curate(recipe(folder, path, chunk=2), scorer)
    assert scorer.asked == ["a dam 0", "a dam 1"]
    mended = json.loads(path.read_text())
    for number in (2, 5, 7):
        mended[number] = caption(number)
    dump(path, mended)
    assert curate(recipe(folder, path, chunk=2), scorer).total("scored") == 10


def test_tasks_and_limits(folder):
    rows = [caption(n) | {"task": "caption" if n % 2 else "open_ended"} for n in range(10)]
    path = dump(folder / "data/captions.json", rows)
    changes = {"data.tasks": "[caption]", "data.train.0.task": "null", "data.train.0.limit": 8, "keep.share": 1}
    report = curate(recipe(folder, path, **changes))
    assert [row["score"] for row in kept(folder)] == [1, 3, 5, 7]
    assert (report.total("rows"), report.total("scored")) == (4, 4)


class Quiet(Numbers):
    """Keeps nothing of what it was asked."""

    def score(self, exchanges):
        self.asked.clear()
        self.batches.clear()
        return super().score(exchanges)


def peak(folder, rows, name):
    """Peak of Python's memory while `rows` rows of 4 KB are curated, in bytes."""
    home = folder / f"{name}-{rows}"
    (home / "data").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(home / "data/a.png")
    path = dump(home / "data" / name, [caption(number, long="x" * 4000) for number in range(rows)])
    wanted = recipe(home, path, chunk=64, examples=0)
    tracemalloc.start()
    try:
        report = curate(wanted, Quiet())
        assert report.total("kept") == rows * 0.3
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["captions.json", "captions.jsonl"])
def test_rows_are_not_held(folder, name):
    """2,000 rows more: at most 80 bytes for each (scores, masks, the report's copies); a row held takes over 4,000."""
    peak(folder, 100, name)  # what is imported and cached once
    small, large = peak(folder, 500, name), peak(folder, 2_500, name)
    assert large - small < 80 * 2_000


def test_two_processes_score_what_one_would(folder):
    """`accelerate launch`: each process a half, merged by the first; then again with one, which has nothing to do."""
    path = corpus(folder, range(30))
    recipe(folder, path)
    argv = [folder / "curate.yaml", "chunk=4"]
    run([*two_processes(), ROOT / "launch/curate.py", *argv])
    parts = sorted((folder / "run/scores").glob("*.jsonl"))
    assert len(parts) == 2
    for rank, part in enumerate(parts):
        rows = [row for line in part.read_text().splitlines() for row in json.loads(line)["rows"]]
        assert rows == [row for row in range(1, 31) if row % 2 == rank]
    done = forked.run([sys.executable, ROOT / "launch/curate.py", *argv, f"output={folder}/alone"])
    assert "kept share" in done.stdout
    assert (folder / "alone/kept/captions.json").read_bytes() == (folder / "run/kept/captions.json").read_bytes()
    again = forked.run([sys.executable, ROOT / "launch/curate.py", *argv], expect=2)
    assert "holds a finished run" in again.stderr
    done = forked.run([sys.executable, ROOT / "launch/curate.py", *argv, "--dry-run"])
    assert "30 rows to score by random; kept, if no row is faulty: 9" in done.stdout


def test_by_the_score_model(folder, tiny_model):
    """The real score model, from its checkpoint: what is kept is what it rates highest itself."""
    from rewards.score import Exchange, ScoreModel

    model = ScoreModel.from_backbone(tiny_model, dtype="float32")
    model.save_pretrained(folder / "scorer")
    path = corpus(folder, range(6))
    changes = {
        "by": "score",
        "scorer.path": folder / "scorer",
        "scorer.dtype": "float32",
        "keep": "{count: 2, share: null}",
    }
    stage.run(recipe(folder, path, **changes))
    image = str(folder / "data/a.png")
    expected = model.score([Exchange.of("", f"a dam {n}", images=[image]) for n in range(6)])
    best = sorted(sorted(range(6), key=lambda n: -expected[n])[:2])
    rows = kept(folder)
    assert [row["conversations"][-1]["value"] for row in rows] == [f"a dam {n}" for n in best]
    assert [row["score"] for row in rows] == pytest.approx([expected[n] for n in best], abs=1e-5)
