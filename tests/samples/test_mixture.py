"""Several sources as one set of rows: counts, draws and what is refused."""

from __future__ import annotations

import json
import logging
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from samples import Sample
from samples.mixture import count, draw
from samples.sections import DataSection, SourceSection
from samples.shares import draw_key, drawn, percentage, quotas
from stage.recipe import config
from stage.runs import Run
from tests.support.runs.example_recipe import message
from tests.support.sample_rows import dump
from vlm.common.errors import DataError

SHARES = st.integers(1, 10_000).map(lambda n: n / 100)


def row(number, task="vqa", **changes):
    asked = {"images": [], "messages": [{"role": "user", "content": "q"}], "task": task, "answer": "yes"}
    return asked | {"id": str(number)} | changes


@pytest.fixture
def mixed(tmp_path):
    """vqa, caption, vqa, a missing picture, caption, vqa: ids 0 to 5, the fourth row faulty."""
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    tasks = ("vqa", "caption", "vqa", "vqa", "caption", "vqa")
    rows = [row(n, task, images=["gone.png" if n == 3 else "a.png"]) for n, task in enumerate(tasks)]
    return str(dump(tmp_path / "mixed.jsonl", rows))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files, of 40 rows of VQA, 25 captions and 7 more of VQA."""
    folder = tmp_path_factory.mktemp("files")
    parts = {"a": ("vqa", 40), "b": ("caption", 25), "c": ("vqa", 7)}
    return [str(dump(folder / f"{name}.jsonl", [row(n, task) for n in range(k)])) for name, (task, k) in parts.items()]


def ids(mixed, limit=None, **data):
    return [s.id for s in draw(DataSection(train=[SourceSection(path=mixed, limit=limit)], **data), "train", 0).samples]


def test_faults_end_the_run_or_are_counted(mixed, caplog):
    with pytest.raises(DataError, match=r"mixed.jsonl, line 4, field 'images'.*gone.png"):
        ids(mixed)
    with caplog.at_level(logging.WARNING):
        assert ids(mixed, on_fault="skip") == ["0", "1", "2", "4", "5"]
    assert "6 rows = 5 kept + 1 skipped" in caplog.text and "missing_image: 1" in caplog.text
    found = draw(DataSection(train=[SourceSection(path=mixed)], on_fault="skip"), "train", 0).to_dict()["sources"]
    assert [(part["faulty"], part["rows"]) for part in found] == [(1, 5)]


def test_the_limit_counts_what_the_tasks_left(mixed):
    assert ids(mixed, on_fault="skip", tasks=["vqa"]) == ["0", "2", "5"]
    assert ids(mixed, limit=2, on_fault="skip", tasks=["caption"]) == ["1", "4"]
    assert ids(mixed, limit=3, on_fault="skip", tasks=["vqa"]) == ["0", "2", "5"]
    assert ids(mixed, limit=1, on_fault="skip") == ["0"]


def test_rows_behind_the_limit_are_not_even_checked(mixed):
    assert ids(mixed, limit=3) == ["0", "1", "2"]  # the fourth is faulty
    assert ids(mixed, limit=2, tasks=["vqa"]) == ["0", "2"]


def test_each_source_has_its_own_limit_and_tasks_and_comes_in_order(mixed):
    sources = [
        SourceSection(path=mixed, limit=1),
        SourceSection(path=mixed, limit=2, task="caption"),
        SourceSection(path=mixed, tasks=["caption"], repeat=2),
    ]
    found = draw(DataSection(train=sources, on_fault="skip"), "train", 0).samples
    assert [(s.task, s.id) for s in found] == [("vqa", "0"), ("caption", "0"), ("caption", "1")] + [
        ("caption", "1"),
        ("caption", "4"),
    ] * 2
    assert found[3] == found[5] and found[4] == found[6]


def test_nothing_left_is_an_error(mixed):
    with pytest.raises(DataError, match=r"data.eval: no rows left; sources \['.*mixed.jsonl'\], tasks \['grounding'\]"):
        draw(DataSection(eval=[SourceSection(path=mixed)], on_fault="skip", tasks=["grounding"]), "eval", 0)
    with pytest.raises(DataError, match=r"percent = 1 of 40 rows is none; tasks: all, found \{'vqa': 40\}"):
        draw(DataSection(train=[SourceSection(path=mixed.replace("mixed", "forty"), percent=1.0)]), "train", 0)


@pytest.fixture(autouse=True)
def forty(tmp_path):
    dump(tmp_path / "forty.jsonl", [row(n) for n in range(40)])


@given(st.lists(SHARES, min_size=1, max_size=8), st.integers(1, 100_000))
def test_quotas_are_exact_to_one_row(ratios, total):
    parts = quotas(ratios, total)
    whole = sum(map(Fraction, map(str, ratios)))
    assert sum(parts) == total
    for part, ratio in zip(parts, ratios, strict=True):
        assert abs(part - total * Fraction(str(ratio)) / whole) < 1


def test_percentages_round_to_the_nearest_row():
    assert [percentage(p, 10) for p in (4.9, 5, 14.9, 15, 100)] == [0, 1, 1, 2, 10]
    assert percentage(0.1, 1_000_500) == 1001 and percentage(29.7, 1000) == 297


@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(0, 200), st.integers(0, 200))
def test_a_larger_draw_contains_a_smaller_one(seed, rows, one, other):
    keys = [draw_key(seed, Sample([], [], "vqa", source="s", id=str(n % 150))) for n in range(rows)]
    small, large = (drawn(keys, min(count, rows)).tolist() for count in sorted((one, other)))
    assert set(small) <= set(large) and large == sorted(set(large)) and len(large) == min(max(one, other), rows)


@given(
    st.lists(
        st.tuples(st.none() | st.integers(3, 50), st.none() | st.integers(20, 100), st.integers(1, 3)),
        min_size=1,
        max_size=3,
    ),
    st.none() | st.just(["vqa"]),
    st.integers(0, 9),
)
def test_counts_add_up(files, settings, tasks, seed):
    """Read, kept and used, against counts made from the samples themselves."""
    sources = [
        SourceSection(path=path, limit=limit, percent=percent, repeat=repeat)
        for path, (limit, percent, repeat) in zip(files[::-1], settings, strict=False)
        if tasks is None or "b.jsonl" not in path
    ]
    found = draw(DataSection(train=sources, tasks=tasks), "train", seed)
    sizes = {"a": 40, "b": 25, "c": 7}
    assert found.rows == len(found.samples) == sum(part.rows for part in found.parts)
    for part, source in zip(found.parts, sources, strict=True):
        name = source.path[-7]
        kept = percentage(source.percent or 100, min(source.limit or 99, sizes[name]))
        (line,) = part.lines
        assert (line.read, line.kept, line.rows) == (min(source.limit or 99, sizes[name]), kept, kept * source.repeat)
        times = Counter(s.id for s in found.samples if s.source == name)
        assert len(times) == kept and set(times.values()) == {source.repeat}
    assert count(DataSection(train=sources, tasks=tasks), "train", seed).to_dict() == found.to_dict()


def test_ratios_of_a_total(files):
    """60 rows as 3 : 2 : 1: 30 of 40 rows, 20 of 25, and 10 of 7: each once, three of them twice."""
    ratios = (3.0, 2.0, 1.0)
    data = DataSection(train=[SourceSection(path=p, ratio=r) for p, r in zip(files, ratios, strict=True)], rows=60)
    found = draw(data, "train", 5)
    times = Counter((s.source, s.id) for s in found.samples)
    assert [sum(n for (name, _), n in times.items() if name == source) for source in "abc"] == [30, 20, 10]
    assert sorted(n for (name, _), n in times.items() if name == "c") == [1, 1, 1, 1, 2, 2, 2]
    assert {n for (name, _), n in times.items() if name != "c"} == {1}
    shares = [list(part["tasks"].values())[0]["share"] for part in found.to_dict()["sources"]]
    assert shares == [0.5, 0.333333, 0.166667]


def subset(path, seed, percent=25.0, beside=()):
    sources = [*(SourceSection(path=p) for p in beside), SourceSection(path=path, percent=percent)]
    return [s.id for s in draw(DataSection(train=sources), "train", seed).samples if s.source == "a"]


def test_the_draw_depends_on_the_seed_alone(files):
    """Not on other sources, nor on the process (Python's own hashes do); larger percentages add rows."""
    ten = subset(files[0], 0)
    # the ten smallest of: for i in $(seq 0 39); do printf '0\\0a\\0%s' $i | b2sum -l 64; done
    assert ten == ["7", "8", "9", "12", "13", "16", "17", "19", "20", "29"]
    assert subset(files[0], 0, beside=files[1:]) == ten
    assert subset(files[0], 1) != ten
    assert set(ten) < set(subset(files[0], 0, percent=50.0))


DIGESTS = ("bytes", "sha256", "used_sha256", "pictures_sha256")


def test_what_a_run_keeps_of_it(files, tmp_path, capsys):
    found = draw(DataSection(train=[SourceSection(path=files[2], repeat=2)]), "train", 0)
    run = Run.create(tmp_path / "run", {"seed": 0})
    run.note_mixtures({"train": found})
    task = {"read": 7, "kept": 7, "repeated": 7, "rows": 14, "share": 1.0}
    source = {"path": files[2], "rows": 14, "faulty": 0, "left_out": 0, "tasks": {"vqa": task}}
    kept = json.loads((tmp_path / "run/data.json").read_text())
    told_apart = {name: kept["train"]["sources"][0].pop(name) for name in DIGESTS}
    assert kept == {"train": {"rows": 14, "sources": [source]}}
    assert told_apart["bytes"] == Path(files[2]).stat().st_size and len(told_apart["sha256"]) == 64
    assert "Rows of data.train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{train: [{path: a, percent: 0}]}", "train.0`: percent = 0.0; expected 0 < percent ≤ 100"),
        ("{train: [{path: a, percent: 101}]}", "percent = 101.0; expected 0 < percent ≤ 100"),
        ("{train: [{path: a, percent: .nan}]}", "percent = nan"),
        ("{train: [{path: a, repeat: 0}]}", "repeat = 0; expected at least 1"),
        ("{train: [{path: a, tasks: []}]}", "train.0`: tasks is empty"),
        ("{train: [{path: a, tasks: [vga]}]}", "tasks: found 'vga', expected one of grounding"),
        ("{tasks: [vqa], train: [{path: b}, {path: a, tasks: [caption]}]}", "train.1: its tasks ['caption'] and"),
        ("{rows: 9, train: [{path: a, ratio: -1}]}", "ratio = -1.0; expected a positive number"),
        ("{rows: 9, train: [{path: a, ratio: 1, repeat: 2}]}", "and so do percent and repeat"),
        ("{train: [{path: a}, {path: b, ratio: 1}]}", "train.1: ratio is a part of a total, which is missing"),
        ("{rows: 9, train: [{path: a, ratio: 1}, {path: b}]}", "train.1 has no ratio"),
        ("{rows: 9}", "train is empty"),
        ("{rows: 0, train: [{path: a, ratio: 1}]}", "rows = 0; expected at least 1"),
        ("{rows: 9, train: [{path: a, ratio: 99}, {path: b, ratio: 0.1}]}", "train.1: its ratio of rows = 9 is no row"),
        ("{eval: [{path: a, repeat: 2}]}", "eval.0: repeat = 2, but a held-out question counts once"),
        ("{eval: [{path: a, ratio: 2}]}", "eval.0: ratio = 2.0, but a held-out question counts once"),
    ],
)
def test_mixtures_that_mean_nothing_are_refused(tmp_path, data, expected):
    from rl.recipe import GRPORecipe

    path = tmp_path / "r.yaml"
    path.write_text(f"output: o\nmodel: {{path: m}}\ndata: {data}\n")
    assert expected in message(config.load, path, GRPORecipe)


def test_curation_takes_no_mixture(tmp_path):
    from rewards.curate.recipe import CurateRecipe

    path = tmp_path / "r.yaml"
    path.write_text("output: o\nby: random\ndata: {train: [{path: a, repeat: 2}]}\n")
    assert "data.train.0.repeat: curation scores every row once" in message(config.load, path, CurateRecipe)


def test_a_repeated_row_is_a_prompt_and_a_group_of_its_own(files):
    """Two copies of a row beside each other, two completions of each: two groups, not one of four."""
    from rewards.score.reward.candidates import Reader
    from samples.rows import prompt_rows
    from vlm.sections import PromptSection

    found = draw(DataSection(train=[SourceSection(path=files[2], limit=1, repeat=2)]), "train", 0)
    rows = list(prompt_rows(found.samples, PromptSection()))
    assert [(r["source"], r["id"], r["copy"]) for r in rows] == [("c", "0", 0), ("c", "0", 1)]
    batch = [rows[0], rows[0], rows[1], rows[1]]
    columns = {name: [r[name] for r in batch] for name in batch[0]}
    said = [[{"role": "assistant", "content": "<think>t</think><answer>yes</answer>"}]] * 4
    reader = Reader(("vqa",), "answer", ask=True, needs_reference=True)
    groups = [c.group for c in reader.read(columns.pop("prompt"), said, columns)]
    assert groups[0] == groups[1] != groups[2] == groups[3]
