"""Lengths of texts in a plan: those of transformers' processor and chat template, and where no tokenizer is at hand."""

from __future__ import annotations

import json
import re
import shutil
from types import SimpleNamespace

import pytest
from trl.chat_template_utils import get_training_chat_template
from trl.data_utils import prepare_multimodal_messages

from rl import stage as rl
from rl.recipe import GRPORecipe
from samples.mixture import count, draw
from samples.rows import chat_rows, prompt_rows
from samples.sections import DataSection, SourceSection
from sft import stage as sft
from sft.recipe import SFTRecipe
from stage.planning import lengths
from stage.planning.job import Job
from stage.recipe import config
from tests.support.processes.commands import ROOT
from vlm.common.errors import RecipeError
from vlm.loading import load_processor
from vlm.sections import ImageSection, ModelSection, PromptSection

BASE = ROOT / "demo/base"
PIXELS = ImageSection(min_pixels=56 * 56, max_pixels=112 * 112)


@pytest.fixture(scope="module")
def processor():
    return load_processor(str(BASE), PIXELS)


def recipe_of(path, prompt=None, model=BASE, **data):
    """What `Lengths` reads of a recipe."""
    sources = (
        [SourceSection(path=str(one)) for one in path] if isinstance(path, list) else [SourceSection(path=str(path))]
    )
    section = DataSection(train=data.pop("train", sources), **data)
    return SimpleNamespace(
        model=ModelSection(path=str(model)),
        prompt=prompt or PromptSection(),
        images=PIXELS,
        data=section,
        seed=0,
        tools=[],
    )


def measured(recipe, answers=False):
    found = lengths.Lengths(recipe, answers)
    return found.measure(count(recipe.data, "train", recipe.seed, found.see).absent)


def text_tokens(processor, messages, images, **how):
    """Tokens less those of pictures, as TRL has them."""
    turns = prepare_multimodal_messages(messages, images=images)
    ids = processor.apply_chat_template(turns, tokenize=True, return_dict=True, **how)["input_ids"][0]
    return sum(token != processor.image_token_id for token in ids)


@pytest.mark.parametrize("style", ["r1", "direct"])
def test_prompts_equal_the_processor(demo_data, processor, style, monkeypatch):
    """On every row: the longest of all is among those that are tokenised."""
    monkeypatch.setattr(lengths, "TOKENISED", 3)
    paths = [demo_data / "grpo/prompts.jsonl", demo_data / "grpo/captions.jsonl"]
    recipe = recipe_of(paths, PromptSection(style=style))
    rows = list(prompt_rows(draw(recipe.data, "train", 0).samples, recipe.prompt))
    expected = [text_tokens(processor, row["prompt"], row["images"], add_generation_prompt=True) for row in rows]
    found, said = measured(recipe)
    assert found == {"prompt_tokens": max(expected), "images_per_sample": 1}
    assert said == f"longest prompt text: {max(expected)} tokens (of 32 rows)"


@pytest.mark.parametrize("file", ["sft/traces.json", "boxes.jsonl"])
def test_answers_equal_the_processor(demo_data, processor, file, tmp_path):
    """Of the template that TRL trains with; answers in the data, and those that are written from boxes."""
    path, style = demo_data / file, "r1"
    if not path.exists():
        path, style = tmp_path / file, "direct"
        rows = [json.loads(line) for line in (demo_data / "grpo/prompts.jsonl").read_text().splitlines()]
        kept = [row | {"images": [str(demo_data / "grpo" / row["images"][0])]} for row in rows if row.get("boxes")]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    recipe = recipe_of(path, PromptSection(style=style, notation="qwen2_vl"))
    template = get_training_chat_template(processor) or processor.chat_template
    prompts, answers = [], []
    for row in chat_rows(draw(recipe.data, "train", 0).samples, recipe.prompt):
        *asked, _ = row["messages"]
        whole = text_tokens(processor, row["messages"], row["images"], chat_template=template)
        prompts.append(text_tokens(processor, asked, row["images"], chat_template=template, add_generation_prompt=True))
        answers.append(whole - prompts[-1])
    assert answers
    found, said = measured(recipe, answers=True)
    assert found == {"prompt_tokens": max(prompts), "completion_tokens": max(answers), "images_per_sample": 1}
    assert said.endswith(f"longest answer: {max(answers)} tokens (of {len(answers)} rows)")


def mixed(folder, counts=(0, 2, 1), words=("a", "b " * 40, "c " * 10), name="mixed.jsonl"):
    """Rows with this many pictures, and these questions."""
    for number in range(max(counts)):
        shutil.copy(next((ROOT / "docs").rglob("*.png")), folder / f"{number}.png")
    rows = [
        {
            "images": [f"{n}.png" for n in range(images)],
            "messages": [{"role": "user", "content": text}],
            "task": "vqa",
            "answer": "no",
        }
        for images, text in zip(counts, words, strict=True)
    ]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def test_several_pictures_and_none(tmp_path, processor):
    recipe = recipe_of(mixed(tmp_path))
    rows = list(prompt_rows(draw(recipe.data, "train", 0).samples, recipe.prompt))
    expected = max(text_tokens(processor, row["prompt"], row["images"], add_generation_prompt=True) for row in rows)
    assert measured(recipe)[0] == {"prompt_tokens": expected, "images_per_sample": 2}
    assert measured(recipe_of(mixed(tmp_path, (0,), ("a",))))[0]["images_per_sample"] == 0


def test_only_rows_that_the_mixture_uses_are_measured(tmp_path):
    words = tuple("w " * n for n in range(1, 21))
    path = mixed(tmp_path, (0,) * 20, words)
    recipe = recipe_of(path, train=[SourceSection(path=str(path), percent=10.0, repeat=2)])
    used = draw(recipe.data, "train", 0).samples
    found, said = measured(recipe)
    shorter = [row for row, text in enumerate(words) if len(text) <= max(len(s.messages[0]["content"]) for s in used)]
    limited = recipe_of(path, train=[SourceSection(path=str(path), limit=len(shorter))])
    assert len(used) == 4 and len(shorter) < 20
    assert said.endswith("(of 2 rows)") and found == measured(limited)[0]


def test_what_is_not_here_is_assumed(tmp_path):
    path = mixed(tmp_path)
    found, said = measured(recipe_of(path, model="nobody/model"))
    assert found == {"images_per_sample": 2}
    assert said == (
        "text lengths are not measured (nobody/model has no tokenizer.json here): 256 tokens of prompt text are assumed"
    )
    found, said = measured(recipe_of(path, model="nobody/model"), answers=True)
    assert said.endswith("256 tokens of prompt text and 512 tokens of answer are assumed")
    assert "(no row has an answer)" in measured(recipe_of(path), answers=True)[1]
    gone = SourceSection(path=str(tmp_path / "gone.jsonl"), limit=9)
    found, said = measured(recipe_of(path, train=[gone]))
    assert found == {} and "(no row is here): 256 tokens of prompt text are assumed" in said
    found, said = measured(recipe_of(path, PromptSection(style="direct"), train=[SourceSection(path=str(path)), gone]))
    assert found == {"images_per_sample": 2, "prompt_tokens": Job.prompt_tokens}
    assert said.endswith("(of 3 rows); other rows are not here, so no less than 256 is planned")


def copied(tmp_path, **files):
    """The demo's base without weights and template, and with these files."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(BASE / name, folder / name)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


TEMPLATE = (BASE / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template__jinja": TEMPLATE},
        {"chat_template__json": json.dumps({"chat_template": TEMPLATE})},
        {"chat_template__json": json.dumps({"chat_template": TEMPLATE}), "chat_template__jinja": "other"},
        {"tokenizer_config__json": json.dumps({"tokenizer_class": "Qwen2Tokenizer", "chat_template": TEMPLATE})},
    ],
)
def test_the_template_is_the_processors(files, tmp_path):
    folder = copied(tmp_path, **files)
    assert lengths.template_of(ModelSection(path=str(folder))) == load_processor(str(folder), PIXELS).chat_template


def test_a_template_that_marks_what_is_learnt(processor):
    """As TRL's for training: blocks of transformers' own."""
    model, turns = (
        ModelSection(path=str(BASE)),
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
    )
    marked = get_training_chat_template(processor)
    assert "generation %}" in marked
    text = lengths.ChatText(model, marked)
    expected = processor.apply_chat_template(
        prepare_multimodal_messages(turns, images=[None]), chat_template=marked, tokenize=False
    )
    assert text.render(turns, 1, ask=False) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template here"),
        ("{% if %}", "the chat template of .* is not understood"),
        ("{{ messages[0].content.upper() }}", "the chat template cannot be rendered: UndefinedError"),
        ("{{ messages.append(1) }}", "cannot be rendered: SecurityError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be rendered: SecurityError"),
    ],
)
def test_a_template_that_says_nothing(template, reason, tmp_path):
    folder = copied(tmp_path, **({} if template is None else {"chat_template__jinja": template}))
    found, said = measured(recipe_of(mixed(tmp_path), model=folder))
    assert found == {"images_per_sample": 2}
    assert re.search(reason, said), said


def test_a_broken_tokenizer_is_refused(tmp_path):
    folder = copied(tmp_path, tokenizer__json="{", chat_template__jinja=TEMPLATE)
    with pytest.raises(
        RecipeError, match=f"model.path: {folder}/tokenizer.json cannot be read: .*expected a tokenizer"
    ):
        measured(recipe_of(mixed(tmp_path), model=folder))


def test_the_tokenizer_of_the_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--nobody--model/snapshots/commit"
    snapshot.parent.mkdir(parents=True)
    copied(tmp_path, chat_template__jinja=TEMPLATE).rename(snapshot)
    (tmp_path / "models--nobody--model/refs").mkdir()
    (tmp_path / "models--nobody--model/refs/main").write_text("commit")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    path = mixed(tmp_path)
    assert measured(recipe_of(path, model="nobody/model")) == measured(recipe_of(path))


@pytest.mark.parametrize(("name", "module", "kind"), [("grpo", rl, GRPORecipe), ("sft", sft, SFTRecipe)])
def test_the_plan_uses_them(name, module, kind, demo_data, capsys):
    path = demo_data / {"grpo": "grpo/prompts.jsonl", "sft": "sft/traces.json"}[name]
    changes = [f"data.train.0.path={path}", f"model.path={BASE}"]
    recipe = config.load(str(ROOT / f"recipes/demo/{name}.yaml"), kind, changes)
    module.plan(recipe)
    out = capsys.readouterr().out
    found, said = measured(recipe, answers=name == "sft")
    assert f"note: {said}" in out.replace("\n", " ")
    sequence = 16 + found["prompt_tokens"] + found.get("completion_tokens", 72)  # 112² pixels are 16 visual tokens
    assert f"text included │ {sequence:>6} │" in out


def test_a_template_that_opens_the_trace_is_told(tmp_path, capsys):
    shutil.copytree(BASE, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    file, cue = tmp_path / "model/chat_template.jinja", "{% if add_generation_prompt %}<|im_start|>assistant\n"
    assert cue in file.read_text()
    file.write_text(file.read_text().replace(cue, cue + "<think>\n"))
    for path, style, told in (
        (tmp_path / "model", "r1", True),
        (tmp_path / "model", "direct", False),
        (BASE, "r1", False),
    ):
        asked = SimpleNamespace(model=ModelSection(path=str(path)), prompt=PromptSection(style=style))
        lengths.say_opened(asked)
        assert ("the rewards format and gated are 0" in capsys.readouterr().err) == told
