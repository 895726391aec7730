"""Generation for evaluation: batches against single rows, and an evaluation that was interrupted."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from evals import predictions, stage
from evals.asking.conversation import conversation
from evals.comparing import sidebyside
from evals.generate import complete
from evals.recipe import EvalRecipe
from samples import Sample
from samples.sections import DataSection, SourceSection
from stage.planning import decoding
from stage.recipe import config
from stage.recipe.asking import GenerationSection
from stage.runs import FINISHED
from tests.support.scores.scored import said
from tests.support.tiny_checkpoints import section
from vlm.common.errors import RecipeError, UserError
from vlm.families.sight import Grid
from vlm.loading import load_model, load_processor
from vlm.prefix import rollout
from vlm.sections import ImageSection, ModelSection, PromptSection

pytestmark = pytest.mark.versions

RECIPE = Path(__file__).parents[2] / "recipes/demo/eval.yaml"
LIMITS = ImageSection(min_pixels=112 * 112, max_pixels=112 * 112)
PROMPT = PromptSection(system="Think.", wording={"vqa": "{question}"})


@pytest.fixture(scope="module")
def processor(tiny_model):
    return load_processor(tiny_model, LIMITS)


@pytest.fixture
def model(tiny_model):
    return load_model(section(tiny_model)).eval()


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Seven questions of unequal length: five with a picture of its own, one with two, one with none."""
    folder, made = tmp_path_factory.mktemp("questions"), []
    for n, pictures in enumerate((1, 1, 2, 1, 0, 1, 1)):
        paths = [folder / f"{n}{k}.png" for k in range(pictures)]
        for path in paths:
            Image.effect_noise((100 + 20 * n, 90), 30 + 10 * n).convert("RGB").save(path)
        asked = [{"role": "user", "content": "How many ships?" + " And the red tank in the middle?" * n}]
        made.append(Sample([str(path) for path in paths], asked, "vqa", answer="2", source="q", id=str(n)))
    return made


def answers(model, processor, questions, batch, **how):
    section = GenerationSection(**({"batch_size": batch, "max_new_tokens": 8} | how))
    return [(sample.id, text) for sample, text in complete(model, processor, questions, PROMPT, section)]


def by_hand(model, processor, sample) -> str:
    """Greedy decoding of one question: the whole sequence anew for each token, without cache and padding."""
    asked = conversation(sample, PROMPT, processor.sight)
    rendered = processor.apply_chat_template(asked, add_generation_prompt=True)
    pictures = [Image.open(path) for path in sample.images] or None
    inputs = dict(processor(images=pictures, text=[rendered], return_tensors="pt"))
    inputs.pop("attention_mask")
    placeholders = [processor.image_token_id, processor.video_token_id]
    ends = model.generation_config.eos_token_id
    new: list[int] = []
    while len(new) < 8:
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        logits[placeholders] = -torch.inf
        token = int(logits.argmax())
        if token in ends:
            break
        new.append(token)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
    return processor.tokenizer.decode(new, skip_special_tokens=True)


def test_a_batch_answers_as_each_question_alone(model, processor, questions):
    expected = [(sample.id, by_hand(model, processor, sample)) for sample in questions]
    assert len({text for _, text in expected}) > 3  # the pictures and questions do tell
    for batch in (1, 3, 7):
        assert answers(model, processor, questions, batch) == expected


def test_the_processors_own_padding_side_does_not_matter(model, processor, questions):
    expected = answers(model, processor, questions, 1)
    processor.tokenizer.padding_side = "right"
    try:
        assert answers(model, processor, questions, 7) == expected
    finally:
        processor.tokenizer.padding_side = "left"


def test_placeholders_are_never_generated(model, processor, questions):
    wanted = [processor.image_token_id, processor.video_token_id]
    said = []

    def prefer(module, inputs, logits):
        logits[..., wanted] += 10_000.0
        return logits

    decode = processor.tokenizer.batch_decode
    model.lm_head.register_forward_hook(prefer)
    processor.tokenizer.batch_decode = lambda tokens, **how: said.append(tokens) or decode(tokens, **how)
    try:
        for temperature in (0.0, 1.0):
            answers(model, processor, questions, 4, temperature=temperature)
    finally:
        del processor.tokenizer.batch_decode
    assert len(said) == 4
    assert all(len(tokens) <= 8 and not set(wanted) & {*tokens} for batch in said for tokens in batch)


def test_a_conversation_as_it_is_asked(questions):
    system, user = conversation(questions[2], PROMPT, Grid(28, 784, 784 * 100))
    assert system == {"role": "system", "content": [{"type": "text", "text": "Think."}]}
    assert [part["type"] for part in user["content"]] == ["image", "image", "text"]
    assert user["content"][2]["text"].startswith("How many ships? And")
    assert [part["image"].size for part in user["content"][:2]] == [(140, 90), (140, 90)]


class Ready:
    """An answerer whose model is loaded."""

    def __init__(self, model, processor):
        self.model, self.processor = model, processor

    def answer(self, recipe, samples, halved=None):
        return complete(self.model, self.processor, samples, recipe.prompt, recipe.generation, recipe.seed, halved)


def test_sampling_is_by_the_seed(model, processor, questions, tmp_path):
    """And is sampling: another seed says something else."""

    def said(seed):
        data = DataSection(eval=[SourceSection(path="v.jsonl")])
        recipe = EvalRecipe(model=ModelSection(path="m"), output="o", seed=seed, prompt=PROMPT, data=data)
        recipe.generation = GenerationSection(batch_size=4, max_new_tokens=8, temperature=1.5, top_p=0.9)
        path = tmp_path / "predictions.jsonl"
        stage.answer(recipe, Ready(model, processor), questions, path, append=False)
        return path.read_text()

    assert said(1) == said(1) != said(2)


def test_what_is_drawn_does_not_depend_on_the_batch(model, processor, questions):
    """Nor on which questions come before, as in a continued run and in another number of processes."""
    rows = [questions[1]] * 3 + questions + [questions[1]] * 2
    drawn = [answers(model, processor, rows, batch, temperature=1.3, top_p=0.9) for batch in (1, 5, 12)]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len({text for name, text in drawn[0] if name == "1"}) > 3  # six draws for one question
    rest = answers(model, processor, questions[3:], 2, temperature=1.3, top_p=0.9)
    assert rest == drawn[0][6:10]


@pytest.fixture
def small_memory(monkeypatch):
    """`generate` runs out of memory with more than two rows; the batches that were tried."""
    real, tried = rollout.generate, []

    def generate(model, inputs, index, **how):
        tried.append(len(index))
        if len(index) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(model, inputs, index, **how)

    monkeypatch.setattr(rollout, "generate", generate)
    return tried


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_answers_are_the_same_where_memory_runs_out(model, processor, questions, small_memory, temperature):
    expected = answers(model, processor, questions, 2, temperature=temperature)
    small_memory.clear()
    assert answers(model, processor, questions, 6, temperature=temperature) == expected
    assert small_memory == [6, 3, 2, 2, 2, 1]


# an evaluation, whole and interrupted


def recipe(tiny_model, data, output, *overrides) -> EvalRecipe:
    files = ("vg_test.json", "vqa_test.jsonl", "choice_test.jsonl", "caption_test.jsonl")
    sources = [f"data.eval.{n}.path={data}/test/{file}" for n, file in enumerate(files)]
    more = ("generation.max_new_tokens=6", "generation.batch_size=5", "pictures=0")
    return config.load(
        RECIPE, EvalRecipe, [f"model.path={tiny_model}", f"output={output}", *sources, *more, *overrides]
    )


def test_an_interrupted_evaluation_is_continued(tiny_model, demo_data, tmp_path, monkeypatch):
    stage.run(recipe(tiny_model, demo_data, tmp_path / "whole"))
    whole = (tmp_path / "whole/predictions.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["source"] for line in lines] == ["vg_test"] * 4 + ["vqa"] * 4 + ["choice"] * 4 + [
        "caption"
    ] * 4

    torn = recipe(tiny_model, demo_data, tmp_path / "torn")
    stage.run(torn)
    folder = tmp_path / "torn"
    (folder / FINISHED).unlink()
    (folder / "predictions.jsonl").write_text("".join(lines[:7]) + lines[7][:20])  # killed in the eighth answer
    assert [p.key for p in stage.started(torn, folder)] == [
        f"{p['source']}/{p['id']}" for p in map(json.loads, lines[:7])
    ]
    asked, real = [], stage.answer
    monkeypatch.setattr(
        stage, "answer", lambda r, who, todo, *a, **k: asked.append(len(todo)) or real(r, who, todo, *a, **k)
    )
    report = stage.run(torn)
    assert asked == [9] and (folder / "predictions.jsonl").read_text() == whole
    assert report.metrics["grounding/miou"].n == 4 and (folder / FINISHED).exists()
    assert json.loads((folder / "metrics.json").read_text())["vqa/exact"]["n"] == 4


def test_auto_is_chosen_recorded_and_taken_again(tiny_model, demo_data, tmp_path, small_memory, monkeypatch, caplog):
    """16 questions by 12, 6, 3 and 2; the record tells 2, which the continued run begins with. Answers are those of
    batches of 2 and of 1."""
    auto = ("generation.batch_size=auto", "generation.temperature=0.8")
    monkeypatch.setattr(decoding.Decoding, "most", lambda self, room: 12)
    whole = recipe(tiny_model, demo_data, tmp_path / "whole", *auto)
    stage.run(whole)
    folder = tmp_path / "whole"
    assert small_memory == [12, 6, 3, 2, 2, 2, 2, 2, 2, 2, 2]
    assert json.loads((folder / "record.json").read_text())["batch_size"] == 2
    assert caplog.text.count("out of memory with ") == 3 and "going on with 2 (CUDA out of memory." in caplog.text
    said = (folder / "predictions.jsonl").read_text()

    (folder / FINISHED).unlink()
    lines = said.splitlines(keepends=True)
    (folder / "predictions.jsonl").write_text("".join(lines[:5]))
    small_memory.clear()
    stage.run(recipe(tiny_model, demo_data, folder, *auto))
    assert small_memory == [2, 2, 2, 2, 2, 1] and (folder / "predictions.jsonl").read_text() == said
    one = recipe(tiny_model, demo_data, tmp_path / "one", auto[1], "generation.batch_size=1")
    stage.run(one)
    assert (tmp_path / "one/predictions.jsonl").read_text() == said

    (folder / FINISHED).unlink()
    (folder / "predictions.jsonl").write_text("".join(lines[:15]))
    small_memory.clear()
    stage.run(recipe(tiny_model, demo_data, folder, auto[1], "generation.batch_size=3"))  # no other recipe
    assert small_memory == [1] and (folder / "predictions.jsonl").read_text() == said


def test_what_started_finds(tiny_model, demo_data, tmp_path):
    one = recipe(tiny_model, demo_data, tmp_path)
    assert stage.started(one, tmp_path) == []
    config.save(one, tmp_path / "recipe.yaml")
    row = predictions.Prediction("7", "vqa", "vqa", "text", answer="2")
    predictions.write(tmp_path / "predictions.jsonl", [row])
    assert stage.started(one, tmp_path) == [row]
    assert stage.started(recipe(tiny_model, demo_data, tmp_path, "pictures=3"), tmp_path) == [row]
    assert stage.started(recipe(tiny_model, demo_data, tmp_path, "overwrite=true"), tmp_path) == []
    with pytest.raises(
        UserError, match=r"another recipe \(different: generation.max_new_tokens, seed\); write overwrite"
    ):
        stage.started(recipe(tiny_model, demo_data, tmp_path, "generation.max_new_tokens=9", "seed=3"), tmp_path)
    (tmp_path / FINISHED).write_text("{}")
    assert stage.started(one, tmp_path) == []
    with pytest.raises(UserError, match="finished"):
        stage.run(one)


def test_questions_need_names_of_their_own(questions):
    assert stage.unique(questions) == questions
    with pytest.raises(UserError, match="two questions are called q/3"):
        stage.unique([*questions, questions[3]])


def test_asking_for_no_tags_and_reading_inside_them_is_refused(tiny_model, demo_data, tmp_path):
    with pytest.raises(RecipeError, match="inside: text"):
        recipe(tiny_model, demo_data, tmp_path, "prompt.style=direct")


# finished evaluations side by side


def finished(folder: Path, right: int) -> Path:
    """An evaluation of ten VQA questions, the first `right` of them answered right, in the right format."""
    folder.mkdir()
    data = DataSection(eval=[SourceSection(path="v.jsonl")])
    config.save(EvalRecipe(model=ModelSection(path="m"), output=str(folder), data=data), folder / "recipe.yaml")
    rows = [
        predictions.Prediction(str(n), "v", "vqa", said("yes" if n < right else "no"), answer="yes") for n in range(10)
    ]
    predictions.write(folder / "predictions.jsonl", rows)
    return folder


def test_differences_by_hand(tmp_path, capsys):
    names = [finished(tmp_path / name, right) for name, right in (("a", 2), ("b", 2), ("c", 6))]
    sidebyside.show([f"base={names[0]},{names[1]}", f"sft={names[2]}"], tmp_path / "out")
    table = (tmp_path / "out/table.md").read_text()
    assert "| vqa/exact | 10 | 20.0 [0.0, 50.0] | 20.0 [0.0, 50.0] | 60.0 [30.0, 90.0] |" in table
    assert "base·0 | base·1 | sft |" in table
    (line,) = (line for line in table.splitlines() if line.startswith("- base → sft: vqa/exact "))
    assert "20.0 -> 60.0: +40.0 points" in line and "n = 10, 2 seeds" in line
    assert "- base → sft: format 100.0 -> 100.0: +0.0 points [+0.0, +0.0]" in table
    assert "grounding" not in table and "+40.0 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "message"), [("base", "expected name=folder"), ("=x", "expected name="), ("a=nowhere", "no predictions")]
)
def test_specs_that_cannot_be_read(spec, message):
    with pytest.raises(UserError, match=message):
        sidebyside.show([spec], None)
