"""docs/rows.md, tested by reading it: each of its examples is read by what its section names, field by field.

Expected values are written by hand. Pictures are 200 x 100 pixels, as the page says.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import samples
from evals import predictions
from evals.scoring import metrics
from evals.scoring.reading import Reading
from evals.stage import unique
from rewards import check_data, resolve
from rewards.curate import stage as curation
from rewards.curate.recipe import CurateRecipe
from rewards.prefer import judge, pairs, rows
from rewards.prefer.recipe import CandidateSource, ClosedSection, JudgeSection, PreferRecipe
from rewards.prefer.truth import comparisons, values
from rewards.score.training import preferences
from rewards.select import candidates
from samples import Faults, Sample
from samples.columns import Columns
from samples.rows import chat_rows, prompt_rows
from stage.planning.control import ControlTokens
from stage.recipe import config
from studies.scaling import best_of_n
from tests.support.processes.commands import ROOT
from vlm import masks
from vlm.common.errors import DataError, UserError
from vlm.pictures.places import spelled
from vlm.prompts import R1_SYSTEM
from vlm.sections import PromptSection

PAGE = (ROOT / "docs/rows.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]}
"""Heading → its text up to the next heading of any depth."""
EXAMPLE = r"^`(?:kept/)?(\w+\.jsonl)`(?:[^\n]+\n)+\n```json\n(.*?)^```"
"""A paragraph that begins with the file's name, and the rows."""


def examples(heading: str) -> dict[str, str]:
    """File → rows of a section."""
    return dict(re.findall(EXAMPLE, SECTIONS[heading], re.MULTILINE | re.DOTALL))


def table(heading: str) -> dict[str, list[str]]:
    """Field → type, needed, meaning: the section's table of fields."""
    _, _, rest = SECTIONS[heading].partition("| field | type | needed | meaning |\n|---|---|---|---|\n")
    lines = [line.strip("|").split(" | ") for line in rest.split("\n\n")[0].splitlines()]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in (("harbour", "navy"), ("field", "olive")):
        Image.new("RGB", (200, 100), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def folder(tmp_path, pictures) -> Path:
    for file in pictures.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    return tmp_path


def put(folder: Path, heading: str, name: str) -> Path:
    (folder / name).write_text(examples(heading)[name], encoding="utf-8")
    return folder / name


def told(sample: Sample, folder: Path) -> dict:
    """The fields of a sample that are not empty, images by name."""
    found = {name: getattr(sample, name) for name in Sample.__dataclass_fields__}
    found["images"] = [Path(image).name if isinstance(image, str) else "bytes" for image in sample.images]
    assert all(isinstance(image, bytes) or Path(image).parent == folder for image in sample.images)
    found["messages"] = [(turn["role"], turn["content"]) for turn in sample.messages]
    return {name: value for name, value in found.items() if value is not None}


def asked(question: str, image: str, task: str, id: str, source: str, *turns: str, **more) -> dict:
    """What `told` gives for a row about one picture; turns: after the question, the assistant's first."""
    roles = ("assistant", "user")
    messages = [("user", question), *((roles[number % 2], text) for number, text in enumerate(turns))]
    fields = {"images": [image], "messages": messages, "task": task, "size": (200, 100), "source": source, "id": id}
    return fields | more


SHIP, RUNWAYS, COUNT = "the red ship at the pier", "both runways", "How many ships are there?"
USE, CLASS, BUSY = "What is this land used for?", "What class of scene is this?", "Is the harbour busy?"
DESCRIBE, FIELD, YES = "Describe the image.", "A green field beside a road.", "Yes: three ships lie at the pier."
KINDS, OBJECTS = "plane, ship, small vehicle", [[20.0, 20.0, 180.0, 80.0], [10.0, 60.0, 60.0, 70.0]]
LABELS, CLASSES = ["ship", "small vehicle"], ["plane", "ship", "small vehicle"]
FOUND = (
    "<|object_ref_start|>ship<|object_ref_end|><|box_start|>(100,200),(900,800)<|box_end|>"
    "<|object_ref_start|>small vehicle<|object_ref_end|><|box_start|>(50,600),(300,700)<|box_end|>"
)
USES = ["housing", "farming", "industry"]
BOX = [[20.0, 20.0, 180.0, 80.0]]
QUADS = [[100.0, 10.0, 190.0, 55.0, 180.0, 75.0, 90.0, 30.0], [10.0, 60.0, 60.0, 60.0, 60.0, 70.0, 10.0, 70.0]]
PIER = [[120.0, 30.0, 200.0, 90.0]]
AROUND = [[90.0, 10.0, 190.0, 75.0], [10.0, 60.0, 60.0, 70.0]]
SHIP_MASK = masks.runs_of(np.pad(np.ones((60, 160), dtype=bool), 20))
SHIP_CELLS = f"<seg>{'0*32;' * 6}{'0*3,1*26,0*3;' * 20}{'0*32;' * 6}</seg>"
"""Of 32 rows of 3.125 pixels 20 touch those from 20 to 80, of 32 columns of 6.25 pixels 26 those from 20 to 180."""
FOR_GRPO, TRACED, DIRECT = "For GRPO, evaluation and best-of-N", "For SFT, with a trace", "For SFT, without a trace"
QUESTIONS = [
    asked(SHIP, "harbour.png", "grounding", "1", "questions", boxes=BOX),
    asked(RUNWAYS, "harbour.png", "grounding", "2", "questions", boxes=AROUND, quads=QUADS),
    asked(COUNT, "harbour.png", "vqa", "3", "questions", answer="3", kind="count", regions=PIER),
    asked(USE, "field.png", "choice", "4", "questions", answer="B", choices=USES),
    asked(DESCRIBE, "field.png", "caption", "5", "questions", answer=FIELD, references=[FIELD, "Farmland."]),
    asked(CLASS, "field.png", "classification", "6", "questions", answer="farmland"),
    asked(KINDS, "harbour.png", "detection", "8", "questions", boxes=OBJECTS, labels=LABELS, classes=CLASSES,
          difficult=[False, True]),
    asked(KINDS, "field.png", "detection", "9", "questions", boxes=[], labels=[], classes=CLASSES),
    asked(SHIP, "harbour.png", "segmentation", "10", "questions", mask=SHIP_MASK),
    asked(BUSY, "harbour.png", "open_ended", "7", "questions", answer=YES),
]  # fmt: skip


def test_questions(folder):
    found = samples.read(put(folder, FOR_GRPO, "questions.jsonl"))
    assert [told(sample, folder) for sample in found] == QUESTIONS


def test_special_questions(folder):
    found = [told(sample, folder) for sample in samples.read(put(folder, FOR_GRPO, "special.jsonl"))]
    two, dated, turns, text = found
    assert (dated["dates"], dated["answer"]) == (["2019-04", "2021-07"], "A harbour was built.")
    assert two["images"] == ["field.png", "harbour.png"] and two["size"] == (200, 100)
    assert (two["source"], two["id"], two["kind"], two["answer"]) == ("pairs", "1", "comparison,presence", "no")
    assert samples.kinds_of(two["kind"]) == ["comparison", "presence"]
    assert [role for role, _ in turns["messages"]] == ["system", "user", "assistant", "user"]
    assert turns["messages"][-1] == ("user", "How many?") and (turns["source"], turns["id"]) == ("special", "#3")
    assert text["images"] == [] and "size" not in text and text["task"] == "open_ended"


def test_an_image_in_the_row(folder):
    (found,) = samples.read(put(folder, FOR_GRPO, "inline.jsonl"))
    assert told(found, folder) | {"messages": []} == {
        "images": ["bytes"], "messages": [], "task": "classification", "answer": "blue", "size": (1, 1),
        "source": "inline", "id": "#1",
    }  # fmt: skip
    (row,) = prompt_rows([found], PromptSection())
    assert [image.getpixel((0, 0)) for image in row["images"]] == [(0, 0, 255)]


@pytest.mark.parametrize("rows_of", [prompt_rows, chat_rows])
def test_images_in_rows_beside_files(rows_of, folder):
    """Some rows name files, others hold their image: each is read as what it is, in either order."""
    mixed = [*samples.read(put(folder, TRACED, "traces.jsonl")), *samples.read(put(folder, FOR_GRPO, "inline.jsonl"))]
    mixed[-1].messages.append({"role": "assistant", "content": "blue"})
    for order in (mixed, mixed[::-1]):
        assert [len(row["images"]) for row in rows_of(order, PromptSection(notation="qwen2_vl"))] == [1] * 9


def test_what_grpo_asks(folder):
    """Prompts by task, and the columns that rewards see."""
    read = list(samples.read(put(folder, FOR_GRPO, "questions.jsonl")))
    read += samples.read(put(folder, FOR_GRPO, "special.jsonl"))
    table = prompt_rows(read, PromptSection(notation="qwen2_vl"))
    prompts = [[(turn["role"], spelled(turn["content"])) for turn in row["prompt"]] for row in table]
    assert [prompt[-1][1] for prompt in prompts] == [
        f"Give the bounding box of the object that this sentence describes: {SHIP}",
        f"Give the bounding box of the object that this sentence describes: {RUNWAYS}",
        f"{COUNT}\nAnswer with a single word or number.",
        f"{USE}\nA. housing B. farming C. industry\nAnswer with the letter of the right option.",
        DESCRIBE,
        f"{CLASS}\nAnswer with one of the class names.",
        *[f"Detect all objects of these categories, with their names: {KINDS}."] * 2,
        f"Locate the {SHIP}, output the segmentation mask\n{masks.asking('rscovlm').told}",
        BUSY,
        "Do both images show water?\nAnswer with a single word or number.",
        "Picture 1, 2019-04: <image>\nPicture 2, 2021-07: <image>\nWhat has changed?",
        "How many?",  # a later turn stays as it is
        "What is a runway?",
    ]
    systems = [prompt[0] for prompt in prompts]
    assert systems == [("system", R1_SYSTEM)] * 12 + [("system", "Be brief."), ("system", R1_SYSTEM)]
    assert table[1]["boxes"] == AROUND and table[1]["quads"] == QUADS and table[1]["size"] == [200, 100]
    assert [image.size for image in table[10]["images"]] == [(200, 100)] * 2
    assert table[2]["kind"] == "count" and table[3]["choices"] == USES


def learned(folder: Path, heading: str, name: str, section: PromptSection) -> list[str]:
    """What SFT learns of each row: the last turn, the assistant's."""
    table = chat_rows(samples.read(put(folder, heading, name)), section)
    assert all(row["messages"][-1]["role"] == "assistant" and row["messages"][-2]["role"] == "user" for row in table)
    return [row["messages"][-1]["content"] for row in table]


def test_sft_with_a_trace(folder):
    said = learned(folder, TRACED, "traces.jsonl", PromptSection(notation="qwen2_vl"))
    assert [re.sub("<think>.+</think>", "", text) for text in said] == [
        "<answer><|box_start|>(100,200),(900,800)<|box_end|></answer>",
        "<answer>3</answer>",
        "<answer>B</answer>",
        f"<answer>{FIELD}</answer>",
        "<answer>farmland</answer>",
        f"<answer>{FOUND}</answer>",
        "<answer><seg>0*7;0*1,1*5,0*1;0*1,1*5,0*1;0*7;</seg></answer>",
        f"<answer>{YES}</answer>",
    ]
    assert all(text.startswith("<think>") for text in said)


def test_sft_without_a_trace(folder):
    """The box of the first row, which has no assistant turn, is written in the notation: 20 of 200 pixels are 100."""
    said = learned(folder, DIRECT, "direct.jsonl", PromptSection(style="direct", notation="qwen2_vl", masks="grid32"))
    box = "<|box_start|>(100,200),(900,800)<|box_end|>"
    assert said == [box, "3", "B", FIELD, "farmland", FOUND, SHIP_CELLS, YES]
    section = PromptSection(style="direct", notation="internvl", masks="grid32")
    lines = learned(folder, DIRECT, "direct.jsonl", section)
    assert lines[0] == "<box>[[100, 200, 900, 800]]</box>"


def test_sft_with_a_zoom(folder):
    """The second look of the second row exceeds the picture of 200 pixels by 40, and is cut to it."""
    faults = Faults()
    one, two, three = samples.read(put(folder, "For SFT, with a zoom", "zooms.jsonl"), faults=faults)
    assert [[turn.get("zoom") for turn in found.messages] for found in (one, two, three)] == [
        [None, [120.0, 30.0, 180.0, 90.0], None],
        [None, [0.0, 0.0, 100.0, 100.0], [100.0, 0.0, 200.0, 100.0], None],
        [None, None],
    ]
    assert faults.cut == 1 and one.regions == [[130.0, 40.0, 170.0, 80.0]]
    assert [turn["role"] for turn in two.messages] == ["user", "assistant", "assistant", "assistant"]
    assert [len(row["prompt"]) for row in prompt_rows([one, two, three], PromptSection(style="direct"))] == [1, 1, 1]
    with pytest.raises(DataError, match=r"tools: \[{use: zoom}\]"):
        chat_rows([one], PromptSection(style="direct"))


def test_trls_rows(folder):
    found = [told(sample, folder) for sample in samples.read(put(folder, "TRL's rows", "table.jsonl"))]
    assert found == [
        asked(
            COUNT, "harbour.png", "vqa", "1", "table", answer="3", kind="count", regions=PIER, columns={"solution": 3}
        ),
        asked(SHIP, "harbour.png", "grounding", "2", "port", boxes=BOX),
        asked(
            USE,
            "field.png",
            "choice",
            "3",
            "table",
            answer="farming",
            choices=USES,
            columns={"ground_truth": "farming"},
        ),
        asked(CLASS, "field.png", "classification", "4", "table", "farmland", answer="farmland"),
        asked(RUNWAYS, "harbour.png", "grounding", "5", "table", boxes=AROUND, quads=QUADS),
    ]


def test_other_keys(folder):
    """A box of 0.1, 0.2 to 0.9, 0.8 of 200 x 100 pixels."""
    path = put(folder, "Other keys", "columns.jsonl")
    found = [told(one, folder) for one in samples.read(path, columns={"question": "problem", "answer": "label"})]
    assert found == [
        asked(COUNT, "harbour.png", "vqa", "#1", "columns", answer="3",
              columns={"solution": "<answer>3</answer>", "level": 2}),
        asked("Is there water?", "field.png", "vqa", "#2", "columns", answer="no",
              columns={"solution": "<answer>no</answer>"}),
    ]  # fmt: skip
    (swift,) = samples.read(put(folder, "Other keys", "swift.jsonl"), format="sharegpt")
    assert (swift.task, swift.boxes) == ("grounding", [pytest.approx(BOX[0])])
    assert [(turn["role"], turn["content"]) for turn in swift.messages] == [
        ("system", "Be brief."), ("user", "Where is the red ship?"),
    ]  # fmt: skip


def test_preferences_of_other_projects(folder):
    heading = "As TRL, LLaMA-Factory and ms-swift write them"
    for name in examples(heading):
        (found,) = preferences.read(put(folder, heading, name))
        assert [Path(image).name for image in found.images] == ["harbour.png"]
        assert (found.question, found.ranked, found.id) == (COUNT, ["Three.", "Five."], "1")


THREE = "Three ships lie at a pier."
NAMES = ("relevance", "specificity", "completeness", "clarity", "richness")
RATED = {THREE: (5, 5, 4, 5, 4), "A harbour.": (5, 2, 2, 5, 1), "Cars on a road.": (1, 2, 1, 5, 2)}
RATINGS = {text: dict(zip(NAMES, given, strict=True)) for text, given in RATED.items()}


def test_preferences(folder):
    judged, closed, own, text, talk = preferences.read(put(folder, "Preferences", "preferences.jsonl"))
    assert judged.ranked == list(RATED) and judged.ratings == list(RATINGS.values())
    assert (judged.question, judged.images, judged.source, judged.id) == (
        "",
        [str(folder / "harbour.png")],
        "candidates",
        "1",
    )
    assert (closed.question, closed.ranked, closed.ratings) == (COUNT, ["3", "two"], None)
    assert (own.dimensions, own.margin, own.ranked[1]) == (["relevance"], 0.5, "A blue field beside a road.")
    assert (text.images, text.source, text.id, len(text.ranked)) == ([], "preferences", "4", 3)
    assert (talk.question, [turn["content"] for turn in talk.before]) == (
        "How many ships?",
        ["What is it?", "A harbour."],
    )


def test_pairs(folder):
    found = list(preferences.read(put(folder, "Pairs as chosen and rejected", "pairs.jsonl")))
    assert [(one.id, one.ranked) for one in found] == [
        ("1", ["Three.", "Five."]),
        ("2.1", [THREE, "A pier."]),
        ("2.2", [THREE, "Two ships."]),
    ]
    assert [one.question for one in found] == [COUNT, "", ""]
    assert [one.source for one in found] == ["pairs", "port", "port"]
    assert [(one.dimensions, one.margin) for one in found] == [([], None), *[(["relevance"], 0.5)] * 2]
    assert {*(image for one in found for image in one.images)} == {str(folder / "harbour.png")}


def items(folder: Path) -> list[rows.Item]:
    source = CandidateSource(path=str(put(folder, "Candidates", "candidates.jsonl")))
    return list(rows.read(source, "error", Faults()))


def test_candidates(folder):
    """Closed ones by comparison with the truth: of (100,200),(500,800) half lies outside, so its IoU is 1/2."""
    found = items(folder)
    assert [(item.sample.task, len(item.candidates)) for item in found] == [
        ("caption", 3), ("vqa", 3), ("choice", 2), ("classification", 2), ("detection", 2),
        ("segmentation", 2), ("grounding", 2), ("open_ended", 2),
    ]  # fmt: skip
    assert [item.question for item in found] == [
        "", COUNT, f"{USE}\nA. housing B. farming C. industry", CLASS, "plane, ship", SHIP, SHIP,
        "What is a runway?",
    ]  # fmt: skip
    assert [item.sizes for item in found] == [((200, 100),)] * 7 + [()]
    closed = comparisons(ClosedSection())
    compared = {item.sample.task: values(item, closed[item.sample.task]) for item in found[1:7]}
    assert compared == {
        "vqa": [0, 1, 0],
        "choice": [0, 1],
        "classification": [0, 1],
        "detection": [0, 1],
        "segmentation": [1, 0],
        "grounding": [pytest.approx(0.5), pytest.approx(1)],
    }


def ratings(folder: Path, found: list[rows.Item]) -> dict[str, list[dict[str, int]]]:
    """What the journal in the folder holds, read with the judge that the page's row names."""
    said = json.loads(examples("What the judge said")["judged.jsonl"])["judge"]
    section = JudgeSection(address="http://127.0.0.1:9", **{k: v for k, v in said.items() if k != "seed"})
    kept = judge.answers(
        PreferRecipe(data=[CandidateSource(path="x")], output=str(folder), judge=section, seed=said["seed"])
    )
    kept.read(found, judge.kept)
    return kept.done


def test_what_the_judge_said_gives_the_first_preferences(folder):
    """Means 4.6, 3.0 and 2.2 are apart by the gap of 0.4; of the closed row one list from best to worse."""
    found = items(folder)
    put(folder, "What the judge said", "judged.jsonl")
    done = ratings(folder, found)
    assert done == {"candidates/1": [RATINGS[text] for text in found[0].candidates]}
    means = [pairs.mean(one) for one in done["candidates/1"]]
    assert means == [pytest.approx(3.0), pytest.approx(4.6), pytest.approx(2.2)]
    made = pairs.records(found[0], means, done["candidates/1"], "ranked", 0.4)
    made += pairs.records(found[1], [0, 1, 0], None, "ranked", 0.1)
    lines = examples("Preferences")["preferences.jsonl"].splitlines()
    assert [preferences.line(one, folder).decode().rstrip("\n") for one in made] == lines[:2]


def test_completions(folder):
    read = list(samples.read(put(folder, FOR_GRPO, "questions.jsonl")))[:3]
    found, _ = candidates.read(put(folder, "Completions", "completions.jsonl"), read)
    said = [predictions.from_sample(sample, text) for sample, texts in zip(read, found, strict=True) for text in texts]
    judged = [metrics.judge(one, Reading("qwen2_vl")) for one in said]
    # (0,0),(100,100) is 20 x 10 pixels beside the ship; the runways are told exactly by the boxes around them
    assert [one.iou for one in judged[:4]] == [pytest.approx(1), 0, pytest.approx(1), 0]
    assert [one.correct for one in judged[4:]] == [False, True]


def test_what_was_judged(folder):
    """n = 1: the mean; the answer that cannot be read counts as the lowest score, -0.3. n = 4: the highest score's."""
    put(folder, "What was judged", "judged.jsonl")
    curve = best_of_n.read(folder)
    assert curve.ns == (1, 2, 4)
    assert curve.learned[:, [0, 2]] == pytest.approx(np.array([[0.65, 2.0], [0.3, 0.5]]))
    assert curve.gold[:, [0, 2]] == pytest.approx(np.array([[0.4375, 1.0], [0.25, 0.0]]))


class Scorer:
    """A scorer that knows the three answers of the corpus."""

    def score(self, exchanges):
        table = {THREE: 26.0, "Nice.": 5.0, "no": 17.0}
        return [table[exchange.messages[-1]["content"]] for exchange in exchanges]


def test_curation(folder):
    """The kept file is the page's, and a recipe that names the images' folder reads it."""
    path = put(folder, "Curation", "captions.jsonl")
    data = {"train": [{"path": str(path)}]}
    given = {"output": str(folder / "run"), "data": data, "by": "random", "keep": {"share": None, "count": 2}}
    curation.run(config.build(given, CurateRecipe), load=Scorer)
    kept = folder / "run/kept/captions.jsonl"
    assert kept.read_text() == re.findall(EXAMPLE, SECTIONS["Curation"], re.MULTILINE | re.DOTALL)[1][1]
    read = [told(sample, folder) for sample in samples.read(kept, images=folder)]
    held = {"licence": "CC-BY-4.0"}
    assert read == [
        asked(DESCRIBE, "harbour.png", "caption", "1", "captions", THREE, columns=held | {"score": 26.0}),
        asked("Is there water?", "field.png", "vqa", "3", "captions", answer="no", columns=held | {"score": 17.0}),
    ]
    with pytest.raises(DataError, match="an image file that exists"):
        list(samples.read(kept))


def test_predictions(folder):
    """A box from 50 to 150 and one from 100 to 200 share a third of what they cover."""
    found = predictions.read(put(folder, "Predictions", "predictions.jsonl"))
    assert [(one.source, one.id) for one in found] == [("questions", str(number)) for number in range(1, 12)]
    assert (found[0].resized, found[0].image, found[0].prompt) == ((1008, 504), "harbour.png", SHIP)
    judged = [metrics.judge(one, Reading("qwen2_vl")) for one in found]
    assert [one.iou for one in judged[:2]] == [pytest.approx(1), pytest.approx(1 / 3)]
    assert [one.correct for one in judged] == [None, None, False, True, None, False, None, False, False, None, None]
    assert [one.gold for one in judged[4:]] == [0.5, None, 1.0, None, None, None, None]
    assert [one.well_formed for one in judged] == [True] * 5 + [False, True, False, False, False, True]
    report = metrics.evaluate(found, "qwen2_vl")
    assert report.metrics["grounding/acc@0.5"].value == pytest.approx(0.5)
    assert report.metrics["format"].value == pytest.approx(7 / 11)


# Every task, every field.


def test_every_task_has_a_row():
    for heading, name in (
        (FOR_GRPO, "questions.jsonl"),
        (TRACED, "traces.jsonl"),
        (DIRECT, "direct.jsonl"),
        ("Candidates", "candidates.jsonl"),
        ("Predictions", "predictions.jsonl"),
    ):
        tasks = {json.loads(line)["task"] for line in examples(heading)[name].splitlines()}
        assert tasks == set(samples.TASKS), name
    told = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| .* \| .* \| .* \|$", SECTIONS["Questions"], re.MULTILINE)
    assert set(samples.TASKS) <= {task for cell in told for task in re.findall(r"`(\w+)`", cell)}


def test_every_field_is_in_its_table():
    assert list(table("Questions")) == [
        "images", "messages", "task", "answer", "boxes", "quads", "labels", "difficult", "classes", "size", "choices",
        "source", "id", "kind", "references", "regions", "mask", "dates",
    ]  # fmt: skip
    by_the_source = {"written", "tooled"}
    assert set(table("Questions")) == set(Sample.__dataclass_fields__) - {"columns", *by_the_source}
    fields = set(preferences.Preference.__dataclass_fields__)
    assert set(table("Preferences")) == fields - {"before"} | {"messages"}  # it is written as a conversation
    assert set(table("Predictions")) == set(predictions.Prediction.__dataclass_fields__)


def read_journal(path: Path):
    return ratings(path.parent, items(path.parent))


def read_completions(path: Path):
    first = list(samples.read(put(path.parent, FOR_GRPO, "questions.jsonl")))[:1]
    return candidates.read(path, first)[0]


READERS = {
    "Questions": lambda path: list(samples.read(path, format="nadir")),
    "TRL's rows": lambda path: list(samples.read(path, format="trl")),
    "Preferences": lambda path: list(preferences.read(path)),
    "Pairs as chosen and rejected": lambda path: list(preferences.read(path)),
    "Candidates": lambda path: list(rows.read(CandidateSource(path=str(path)), "error", Faults())),
    "What the judge said": read_journal,
    "Completions": read_completions,
    "What was judged": lambda path: best_of_n.read(path.parent).learned.tolist(),
    "Predictions": predictions.read,
}
"""Heading → what reads a file of its rows, as the launcher does that the section names."""


def holding(heading: str, field: str) -> tuple[str, dict]:
    """The first example row of a section that has the field, and its file."""
    found = examples(FOR_GRPO) if heading == "Questions" else examples(heading)
    for name, text in found.items():
        for line in text.splitlines():
            if field in (row := json.loads(line)):
                return name, row
    raise AssertionError(f"no example of {heading} has the field {field}")


def read_row(heading: str, folder: Path, name: str, row: dict):
    (folder / name).write_text(json.dumps(row) + "\n")
    return READERS[heading](folder / name)


READ = [
    (heading, field, cells[1])
    for heading in READERS
    for field, cells in table(heading).items()
    if not cells[2].startswith("Not read")
]


@pytest.mark.parametrize(("heading", "field"), [(heading, field) for heading, field, _ in READ])
def test_a_field_of_the_tables_is_read(heading, field, folder):
    """Nonsense in it is refused, or changes what is read."""
    name, row = holding(heading, field)
    good = read_row(heading, folder, name, row)
    try:
        found = read_row(heading, folder, name, row | {field: {"nonsense": math.pi}})
    except UserError as error:
        assert name in str(error)
    else:
        assert found != good


@pytest.mark.parametrize(("heading", "field"), [(heading, field) for heading, field, needed in READ if needed == "yes"])
def test_a_needed_field_is_missed(heading, field, folder):
    name, row = holding(heading, field)
    del row[field]
    if heading in ("Preferences", "Pairs as chosen and rejected"):  # the layout is told by a row that has the field
        row = {"question": "x", field: None} | row
    with pytest.raises(UserError) as error:
        read_row(heading, folder, name, row)
    assert f"{name}, line 1" in str(error.value) and f"'{field}'" in str(error.value)


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ("grounding", "boxes"),
        ("grounding", "images"),
        ("vqa", "answer"),
        ("choice", "answer"),
        ("choice", "choices"),
        ("classification", "answer"),
    ],
)
def test_what_a_task_needs(task, field, folder):
    rows = map(json.loads, examples(FOR_GRPO)["questions.jsonl"].splitlines())
    row = next(row for row in rows if row["task"] == task)
    row[field] = [] if field == "images" else None
    row["size"] = [200, 100]
    with pytest.raises(DataError, match=rf"questions.jsonl, line 1, field '{field}'"):
        read_row("Questions", folder, "questions.jsonl", row)


# What the page says of wrong rows.


class Heard(Faults):
    """Keeps every message, not only the first of its kind."""

    said: list[str] = []

    def add(self, kind: str, message: str) -> None:
        self.said.append(message)
        super().add(kind, message)


def test_messages_of_wrong_rows(folder, monkeypatch):
    put(folder, "A wrong row", "wrong.jsonl")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Heard, "said", [])
    with pytest.raises(DataError, match="all 16 rows are faulty"):
        list(samples.read("wrong.jsonl", on_fault="skip", faults=Heard()))
    (told,) = re.findall(r"```text\n(.*?)^```", SECTIONS["A wrong row"], re.MULTILINE | re.DOTALL)
    assert [message.replace(str(folder), "/data/mine") for message in Heard.said] == told.splitlines()


def test_messages_of_rows_that_are_refused_later(folder):
    said = re.findall(r"^\| [^|]+ \| `([^|]+)` \| [^|]+ \|$", SECTIONS["A wrong row"], re.MULTILINE)
    path = put(folder, FOR_GRPO, "questions.jsonl")
    read = list(samples.read(path))
    bare = folder / "bare.jsonl"
    bare.write_text(json.dumps({"images": [], "messages": [{"role": "user", "content": "What?"}], "answer": "yes"}))
    assert [one.task for one in samples.read(bare, format="nadir", task="vqa")] == ["vqa"]
    refused = [
        lambda: list(samples.read(bare)),
        lambda: list(samples.read(path, check=ControlTokens(["ship"]))),
        lambda: chat_rows(read, PromptSection()),
        lambda: resolve("gated").check_tasks({sample.task for sample in read}),
        lambda: check_data([lambda completions, solution, **columns: []], Columns(read).by_task),
        lambda: unique([*read, *read]),
    ]
    assert len(said) == len(refused)
    for message, refuse in zip(said, refused, strict=True):
        with pytest.raises(UserError, match=re.escape(message)):
            refuse()


def test_launchers_of_the_page_exist():
    named = set(re.findall(r"launch/\w+\.py", PAGE))
    assert len(named) >= 10 and not [name for name in named if not (ROOT / name).is_file()]
