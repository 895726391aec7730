"""The HTML report as a page: it asks for nothing, its JSON is JSON, and no text from a run can act in it."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from studies.report import page
from studies.report.pictures import LEAST, Cut, Pictures
from studies.report.runs import labels, recipes, samples
from studies.report.runs.folders import read
from tests.support.runs.example_recipe import writer
from tests.support.runs.run_folders import completions, curve, evaluation, group, picture, sample, training
from tests.support.runs.run_folders import conversation as talk
from tests.support.runs.run_folders import samples as keep
from vlm.common.errors import DataError

ROOT = Path(__file__).parents[2]
EVIL = "</script><img src=x onerror=\"document.title='owned'\"><!--<script>"


class Parsed(HTMLParser):
    """Elements with their attributes, and what stands in scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.inside, self.raw, self.text = [], None, {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = (tag, dict(attributes).get("id", "")) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.raw[self.inside] = self.raw.get(self.inside, "") + data
        else:
            self.text.append(data)

    def json(self, name):
        return json.loads(self.raw["script", f"{name}-data"])

    @property
    def said(self):
        return " ".join(" ".join(self.text).split())


def html(*runs, compare=True, **asked):
    return page.html(page.Asked(labels.curves([str(run) for run in runs], compare), **asked))


@pytest.fixture
def runs(tmp_path):
    """Two seeds of a label and one of another, with TRL's completions, and an evaluation."""
    shown = str(picture(tmp_path / "pictures" / "a.png"))
    for seed in (0, 1):
        folder = training(tmp_path / "runs" / f"r1-seed{seed}", curve([0.1 * n + seed for n in range(12)]), seed=seed)
        rows = group("user: Where is it?", ["<|box_start|>(100,200),(500,900)<|box_end|>", "nowhere"])
        common = {"image_file": shown, "task": "grounding", "answer": "(100,200),(500,900)"}
        completions(folder, 1, [row | common for row in rows])
    rows = [{"step": n, "score/mean": n, "rewards/gold/mean": n} for n in range(1, 12)]
    training(tmp_path / "runs" / EVIL.replace("/", "∕"), rows, prompt={"system": EVIL})
    evaluation(tmp_path / "runs" / "eval", {"vqa/exact": 0.5}, model=str(tmp_path / "runs" / "r1-seed0" / "final"))
    return tmp_path / "runs"


def test_the_page_asks_for_nothing(runs):
    text = html(runs)
    parsed = Parsed(text)
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    outside = {url for url in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text) if "w3.org/2000/svg" not in url}
    assert not [url for url in outside if url.startswith("http")]
    assert "url(" not in parsed.raw["style", ""] and "@import" not in parsed.raw["style", ""]
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|innerHTML|import\(", parsed.raw["script", ""])


def test_its_policy_allows_exactly_its_own_script_and_style(runs):
    parsed = Parsed(html(runs))
    (policy,) = [a["content"] for t, a in parsed.elements if t == "meta" and a.get("http-equiv")]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'" and parts["img-src"] == "data:" and parts["base-uri"] == "'none'"
    for name, key in (("script-src", ("script", "")), ("style-src", ("style", ""))):
        digest = base64.b64encode(hashlib.sha256(parsed.raw[key].encode()).digest()).decode()
        assert parts[name] == f"'sha256-{digest}'"


def test_texts_of_runs_stay_texts(tmp_path):
    folder = training(tmp_path / "a", curve([1.0, 2.0]), prompt={"system": EVIL}, rewards=[{"use": EVIL}])
    completions(folder, 1, group(EVIL, [EVIL], task=EVIL, answer=EVIL))
    text = html(folder, title=EVIL)
    parsed = Parsed(text)
    assert not [attributes for tag, attributes in parsed.elements if tag == "img"]
    assert "onerror" not in {name for _, attributes in parsed.elements for name in attributes}
    assert EVIL not in text and text.count("<script") == 4  # the three pieces of data and the page's own
    (one,) = parsed.json("samples")["asked"]
    assert one["prompt"] == one["task"] == one["truth"] == EVIL and EVIL in one["said"][0]["answer"]


def test_json_holds_the_curves_and_samples(runs):
    parsed = Parsed(html(runs))
    figures = parsed.json("figures")
    assert [label["name"] for label in figures["labels"]][:1] == [EVIL.replace("/", "∕")]
    reward = next(p for s in figures["sections"] for p in s["panels"] if p["keys"] == ["reward"])
    assert reward["lines"][0]["raw"]["lo"][:2] == [0, 0.1] and reward["lines"][0]["raw"]["hi"][:2] == [1, 1.1]
    assert figures["planes"][0]["y"] == "rewards/gold/mean"
    asked = parsed.json("samples")["asked"]
    trained = next(one for one in asked if one["run"] == "r1-seed0")
    assert trained["boxes"] == [[4, 4, 20, 18]] and trained["size"] == [40, 20]  # per mille of 40 × 20
    best, worst = trained["said"]
    assert best["read"] == [[4, 4, 20, 18]] and best["rewards"] == {"gated": 1} and best["trace"] == "because"
    assert worst["read"] is None and worst["answer"] == "nowhere"
    (uri,) = parsed.json("pictures")  # both runs show the same one
    assert trained["image"] == 0 and base64.b64decode(uri.partition(",")[2])[8:12] == b"WEBP"


def test_tables_stand_in_the_page_without_the_script(runs):
    said = Parsed(html(runs, band="bootstrap")).said
    for words in ("vqa/ exact", "50.0 [40.0, 60.0]", "r1-seed1", "0.500 → 1.60 [1.10, 2.10]", "prompt. system"):
        assert words in said, words


def test_many_runs_are_folded_behind_what_became_of_them(tmp_path):
    for seed in range(page.LISTED + 1):
        training(tmp_path / f"r1-seed{seed}", curve([1.0]), seed=seed)
    assert f"<summary>{page.LISTED + 1} runs: {page.LISTED + 1} finished</summary>" in html(tmp_path)
    (tmp_path / "r1-seed0/finished.json").unlink()
    assert f" runs: {page.LISTED} finished, 1 unfinished</summary>" in html(tmp_path)
    assert "<summary>2 runs" not in html(tmp_path / "r1-seed1", tmp_path / "r1-seed2")


def test_alerts_stand_in_the_page(tmp_path):
    folder = training(tmp_path / "a", curve([1.0]))
    alert = {
        "step": 240,
        "sign": "entropy",
        "since": 237,
        "title": "Entropy has collapsed",
        "text": f"Since 237 {EVIL}",
    }
    (folder / "alerts.jsonl").write_text(json.dumps(alert) + "\n")
    parsed = Parsed(html(folder))
    assert f"240 Entropy has collapsed – Since 237 {EVIL}" in parsed.said
    assert ("a", {"href": "#alerts"}) in parsed.elements


def test_kept_samples_are_read_with_boxes_and_pictures_of_their_own_folder(tmp_path):
    folder = training(tmp_path / "a", curve([1.0]))
    picture(folder / "samples" / "p.jpg"), picture(tmp_path / "secret.png")
    rows = [sample(1, 0, "x", image="samples/p.jpg"), sample(1, 0, "x"), sample(1, 0, "y", advantage=2.0)]
    keep(folder, [*rows, sample(2, 0, "z", image="../secret.png")])
    one, two = samples.read(read(folder), 100)
    assert one.image == folder / "samples" / "p.jpg" and two.image is None
    assert [(said.answer, said.times) for said in one.said] == [("y", 1), ("x", 2)]
    assert one.boxes == [[1, 2, 11, 9]] and one.said[0].read == [[1, 2, 10, 9]] and one.name == "prompts/g-0"
    keep(folder, [{"step": 1}])
    with pytest.raises(DataError, match=r"samples.jsonl, line 1: has no 'group'"):
        samples.read(read(folder), 100)


def test_samples_are_spread_over_the_steps_within_their_bound():
    asked = [samples.Asked(step, f"{step}-{n}", said=[samples.Said("x")] * 4) for step in range(50) for n in range(10)]
    chosen = samples.spread(asked, 120)
    assert sum(len(one.said) for one in chosen) <= 120
    steps = [one.step for one in chosen]
    assert steps[0] == 0 and steps[-1] == 49 and len({*steps}) >= 8
    assert samples.spread(asked[:3], 100) == asked[:3]


def test_pictures_are_embedded_once_and_within_their_room(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{n}.png" for n in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (400, 400, 3), dtype=np.uint8)).save(path)
    pictures = Pictures(room=60_000)  # noise of this size takes about 100 KB each
    numbers = pictures.add([*paths, paths[0], tmp_path / "absent.png"])
    assert len(pictures.uris) == 6 and sum(map(len, pictures.uris)) * 3 / 4 < 60_000 * 1.1
    assert [numbers[path] for path in paths] == list(range(6)) and LEAST < 400
    assert list(pictures.missing) == [tmp_path / "absent.png"]


def test_conversations_are_shown_turn_by_turn(tmp_path):
    """From all three files: a crop is cut from the original, or is the file that the run folder has of it."""
    path = picture(tmp_path / "p.png", size=(400, 200))
    turns, crops = talk([100, 20, 300, 120])
    text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    common = {"prompt": "user: <image>Which colour?", "image_file": str(path), "task": "vqa", "answer": "red"}
    said = [(text, turns, crops), (text, turns, crops), ("<think>a</think><answer>blue</answer>", turns[-1:], [])]
    rows = [common | {"completion": t, "turns": json.dumps(c), "crops": json.dumps(z)} for t, c, z in said]
    completions(training(tmp_path / "runs/a", curve([1.0])), 1, rows)
    kept = training(tmp_path / "runs/b", curve([1.0]))
    picture(kept / "samples/small.jpg"), picture(kept / "samples/crop.jpg", (200, 0, 0), (30, 20))
    files = [crop | {"of": [400, 200], "file": "samples/crop.jpg"} for crop in crops]
    truth = {"answer": "red", "boxes": None, "quads": None, "size": None}
    chain = {"turns": turns, "crops": files, "regions": [[110, 30, 120, 40]], "truth": truth, "read": None}
    keep(kept, [sample(1, 0, "red", image="samples/small.jpg", image_size=[40, 20], **chain)])
    evaluated = evaluation(tmp_path / "runs/c", {"vqa/exact": 0.5})
    row = {"id": "1", "source": "s", "task": "vqa", "completion": turns[-1]["content"], "image": str(path)}
    (evaluated / "predictions.jsonl").write_text(json.dumps(row | {"turns": turns, "crops": crops}) + "\n")

    parsed = Parsed(html(tmp_path / "runs"))
    shown, uris = {one["run"]: one for one in parsed.json("samples")["asked"]}, parsed.json("pictures")
    assert {name: one["size"] for name, one in shown.items()} == dict.fromkeys("abc", [400, 200])
    for name, one in shown.items():
        first = one["said"][0]
        assert first["turns"] == turns and (first["answer"], first["text"]) == ("red", None)
        (crop,) = first["crops"]
        assert (crop["turn"], crop["image"], crop["box"]) == (1, 0, [100, 20, 300, 120])
        with Image.open(io.BytesIO(base64.b64decode(uris[crop["picture"]].partition(",")[2]))) as cut:
            assert cut.size == ((30, 20) if name == "b" else (200, 100))
    assert [one["times"] for one in shown["a"]["said"]] == [2, 1] and shown["a"]["said"][1]["turns"] == []
    assert shown["b"]["regions"] == [[110, 30, 120, 40]] and shown["a"]["said"][0]["rewards"] == {}
    assert len(uris) == 4 and "blue and numbered" in parsed.said  # picture and crop, each in two files


@pytest.mark.parametrize(
    ("turns", "crops", "words"),
    [
        ("[", None, r"row 1, turns: found '\[', expected JSON"),
        ("{}", None, "row 1, turns: found dict, expected a list"),
        ('[{"role": "user", "content": ""}]', None, "expected {role: assistant | tool, content: text}"),
        ('[{"role": "tool", "content": ""}]', None, "the last is a tool's"),
        (None, '[{"turn": 0, "image": 0, "box": [1, 2, 3]}]', "expected turn, image and a box of four numbers"),
        (None, '[{"turn": 2, "image": 0, "box": [1, 2, 3, 4]}]', "turn 2 is none of the tool's; there are 3 turns"),
    ],
)
def test_conversations_that_are_none_are_refused(tmp_path, turns, crops, words):
    folder = training(tmp_path / "a", curve([1.0]))
    row = {
        "prompt": "Q",
        "completion": "A",
        "turns": turns or json.dumps(talk([0, 0, 1, 1])[0]),
        "crops": crops or "[]",
    }
    completions(folder, 1, [row])
    with pytest.raises(DataError, match=words):
        samples.read(read(folder), 10)


def test_a_region_that_cannot_be_cut_is_said(tmp_path):
    folder = training(tmp_path / "a", curve([1.0]))
    turns, crops = talk([500, 500, 600, 600])
    row = {"prompt": "Q", "completion": "A", "image_file": str(picture(tmp_path / "p.png"))}
    completions(folder, 1, [row | {"turns": json.dumps(turns), "crops": json.dumps(crops)}])
    parsed = Parsed(html(folder))
    (one,) = parsed.json("samples")["asked"]
    assert one["image"] == 0 and one["said"][0]["crops"][0]["picture"] is None
    assert "1 pictures of samples cannot be shown" in parsed.said and "p.png" in parsed.said


def test_regions_are_smaller_than_pictures_and_share_their_room(tmp_path):
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "p.png")
    wanted = [tmp_path / "p.png", *(Cut(tmp_path / "p.png", (n, 0, n + 400, 200)) for n in range(9))]
    plain, tight = Pictures(), Pictures(room=100_000)
    for pictures in (plain, tight):
        numbers = pictures.add(wanted)
        assert [numbers[one] for one in wanted] == list(range(10))
    contents = [[base64.b64decode(uri.partition(",")[2]) for uri in pictures.uris] for pictures in (plain, tight)]
    sizes = [Image.open(io.BytesIO(content)).size for content in contents[0]]
    assert sizes == [(448, 448)] + [(224, 112)] * 9
    assert sum(map(len, contents[0])) > 190_000 and sum(map(len, contents[1])) < 110_000


def test_the_difference_to_the_base_is_found_by_the_command(tmp_path):
    write = writer(tmp_path)
    write("model: {path: demo/base}\ndata: {eval: [{path: a.json}]}\n", "base.yaml")
    file = write("base: base.yaml\nstage: eval\noutput: out\nlimit: 5\n", "mine.yaml")
    folder = evaluation(tmp_path / "run", {"vqa/exact": 0.5})
    from evals.recipe import EvalRecipe
    from stage.recipe import config

    config.save(config.load(file, EvalRecipe, ["seed=3", "pictures=7"]), folder / "recipe.yaml")
    known = json.loads((folder / "environment.json").read_text())
    command = ["python", "launch/eval.py", "mine.yaml", "seed=3", "pictures=7"]
    (folder / "environment.json").write_text(json.dumps(known | {"command": command, "directory": str(tmp_path)}))
    found = recipes.difference(read(folder), [EvalRecipe])
    assert found.against == "base.yaml, the base of mine.yaml" and found.changes == {"limit": ("null", "5")}
    write("base: base.yaml\nstage: eval\noutput: out\nlimit: 6\n", "mine.yaml")
    assert recipes.difference(read(folder), [EvalRecipe]).against.endswith("(which has changed since in limit)")
    file.unlink()
    assert recipes.difference(read(folder), [EvalRecipe]).against == "the defaults of eval"


def test_labels_differ_in_what_some_lack(tmp_path):
    training(tmp_path / "a", curve([1.0]))
    training(tmp_path / "b", curve([1.0]), rewards=[{"use": "gated", "weight": 1.0}, {"use": "iou", "options": None}])
    table = recipes.between(labels.curves([str(tmp_path)], False))
    assert table == {"rewards.1": ["–", "{use: iou}"]}


def test_the_command_writes_the_file_and_refuses_what_is_no_run(tmp_path):
    evaluation(tmp_path / "runs" / "eval", {"vqa/exact": 0.5})  # of GRPO, TRL would be imported, which takes long
    command = [sys.executable, str(ROOT / "launch" / "report.py")]
    out = tmp_path / "deep" / "r.html"
    asked = [*command, "mine=runs", "--compare", "--out", str(out)]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ": 1 run, " in done.stdout and "mine" in Parsed(out.read_text(encoding="utf-8")).said
    refused = subprocess.run([*command, "deep"], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 2 and "expected a run folder" in refused.stderr
