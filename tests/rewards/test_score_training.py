"""Training the score model: the loss, what is trained, what the run folder holds, and that it learns to look."""

import json
import math
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rewards.score.model.score_model import ScoreModel
from rewards.score.training import stage
from rewards.score.training.preferences import Preference, read, write
from rewards.score.training.recipe import ScoreRecipe
from rewards.score.training.trainer import Collator, Rows, preference_loss
from stage.recipe import config
from stage.runs import read_metrics
from tests.support.families import published
from tests.support.processes.commands import ROOT
from tests.support.runs.deterministic import AsOnCUDA, restored
from vlm.common.errors import RecipeError
from vlm.families.qwen3_vl import Qwen3VL

pytestmark = [pytest.mark.versions, pytest.mark.xdist_group("score")]
BASE = str(ROOT / "demo/base")
FORWARD = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "image_index")
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 30)}
TRAINING = {
    "per_device_train_batch_size": 8, "learning_rate": 5e-4, "max_steps": 14, "logging_steps": 1,
    "lr_scheduler_type": "constant", "gradient_checkpointing": False,
}  # fmt: skip


# --- the loss ---


def loss(*groups, margins=None, center=0.0):
    scores = torch.tensor([score for group in groups for score in group], requires_grad=True)
    margins = torch.tensor(margins or [0.0] * len(groups))
    out = preference_loss(scores, [len(group) for group in groups], margins, center)
    out.backward()
    return out.item(), scores.grad.tolist()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_bradley_terry_by_hand():
    """-log σ(d), and its gradient -σ(-d) on the better and σ(-d) on the worse score; the mean over records."""
    value, gradient = loss((2.0, 0.5), (-1.0, 1.0))
    assert value == pytest.approx((math.log1p(math.exp(-1.5)) + math.log1p(math.exp(2.0))) / 2)
    assert gradient == pytest.approx([-sigmoid(-1.5) / 2, sigmoid(-1.5) / 2, -sigmoid(2.0) / 2, sigmoid(2.0) / 2])


def test_a_margin_asks_for_more():
    value, gradient = loss((1.0, 0.0), (1.0, 0.0), margins=[1.0, 0.0])
    assert value == pytest.approx((math.log(2) + math.log1p(math.exp(-1))) / 2)
    assert gradient == pytest.approx([-0.25, 0.25, -sigmoid(-1) / 2, sigmoid(-1) / 2])


def test_a_ranked_list_is_the_mean_over_its_pairs():
    """Differences 1, 3 and 2; beside a pair it counts as one record."""
    value, gradient = loss((3.0, 2.0, 0.0), (0.0, 0.0))
    terms = [math.log1p(math.exp(-d)) for d in (1, 3, 2)]
    assert value == pytest.approx((sum(terms) / 3 + math.log(2)) / 2)
    first, third, second = (sigmoid(-d) / 6 for d in (1, 3, 2))
    assert gradient == pytest.approx([-first - third, first - second, third + second, -0.25, 0.25])


def test_the_centring_term():
    """c · mean (s⁺ + s⁻)²: its gradient is 2c (s⁺ + s⁻) on both, added to Bradley-Terry's."""
    value, gradient = loss((2.0, 1.0), center=0.01)
    assert value == pytest.approx(math.log1p(math.exp(-1)) + 0.09)
    assert gradient == pytest.approx([0.06 - sigmoid(-1), 0.06 + sigmoid(-1)])
    assert loss((2.0, 1.0, -4.0), center=0.5)[0] - loss((2.0, 1.0, -4.0))[0] == pytest.approx(0.5 * (9 + 4 + 9) / 3)


def test_fault_15_differences_of_a_thousand_neither_overflow_nor_vanish():
    """Published: the log of a ratio of exponentials, which is inf or NaN from differences of 89 on."""
    ratio = torch.tensor(1000.0).exp() / (torch.tensor(1000.0).exp() + torch.tensor(0.0).exp())
    assert ratio.isnan()  # what the published loss would take the log of
    wrong, gradient = loss((0.0, 1000.0))
    assert wrong == pytest.approx(1000.0) and gradient == pytest.approx([-1.0, 1.0])
    right, gradient = loss((1000.0, 0.0))
    assert right == 0.0 and gradient == [0.0, 0.0]


# --- batches and recipes ---


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A file for training and one held out: plain pictures, whose colour only a model that looks can name."""
    folder = tmp_path_factory.mktemp("colours")
    draw = torch.Generator().manual_seed(0)
    for name, count in (("train", 32), ("eval", 18)):
        records = []
        for number in range(count):
            right, wrong = list(COLOURS)[number % 3], list(COLOURS)[(number + 1 + number // 3 % 2) % 3]
            shade = [c + int(torch.randint(-20, 20, (), generator=draw)) for c in COLOURS[right]]
            path = folder / f"{name}{number}.png"
            Image.new("RGB", (112, 112), tuple(shade)).save(path)
            records.append(Preference([str(path)], "What color?", [right, wrong], ["relevance"]))
        write(folder / f"{name}.jsonl", records)
    return folder


def recipe(colours, output, model=BASE, **more) -> ScoreRecipe:
    training = TRAINING | more.pop("training", {})
    content = {
        "output": str(output), "overwrite": True, "training": training,
        "model": {"path": str(model), "dtype": "float32", "attention": "sdpa", **more.pop("section", {})},
        "images": {"min_pixels": 12544, "max_pixels": 12544},
        "data": {"train": [{"path": str(colours / "train.jsonl")}], "eval": [{"path": str(colours / "eval.jsonl")}]},
    }  # fmt: skip
    path = colours / "recipe.yaml"
    path.write_text(json.dumps({**content, **more}))  # JSON is YAML
    return config.load(path, ScoreRecipe)


def processor():
    from vlm.loading import load_processor
    from vlm.sections import ImageSection

    return load_processor(BASE, ImageSection(min_pixels=12544, max_pixels=12544))


def test_a_batch_holds_every_candidate_with_its_image_and_question(colours):
    """One picture in three candidates: three rows of placeholders, one set of pixels. A record without stands by."""
    words = processor()
    image = str(colours / "train0.png")
    seen = Preference([image], "What color?", ["red", "blue", "a lake"], margin=0.5)
    records = [seen, Preference([], "Q", ["a", "b"])]
    config = SimpleNamespace()  # of a model that is not asked
    batch = Collator(words, config)([Rows(records)[place] for place in (0, 1)])
    assert batch["candidates"].tolist() == [3, 2] and batch["margin"].tolist() == [0.5, 0.0]
    assert batch["index"].tolist() == [0, 1] and next(iter(batch)) == "index"
    placeholders = (batch["input_ids"] == words.image_token_id).sum(1)
    assert placeholders.tolist() == [16, 16, 16, 0, 0]
    assert len(batch["image_grid_thw"]) == 1 and batch["image_index"].tolist() == [0, 0, 0]
    for row, answer in enumerate(("red", "blue", "a lake")):
        text = words.tokenizer.decode(batch["input_ids"][row][batch["attention_mask"][row] == 1])
        assert text.endswith(f"<|vision_end|>What color?<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n")


REFUSED = {
    "no data": ({"data": {}}, "data.train is empty"),
    "nothing trained": ({"train": []}, "train is empty"),
    "no head": ({"train": ["vision_tower"]}, "without the head"),
    "two ways to freeze": ({"section": {"freeze": ["merger"]}}, "`train` names the parts"),
    "prompt": ({"prompt": {"style": "direct"}}, "prompt is not read here"),
    "lora of nothing": ({"train": ["head"], "section": {"lora": {}}}, "nothing to adapt"),
    "lora elsewhere": ({"train": ["vision_tower", "head"], "section": {"lora": {}}}, "which `train` does not name"),
    "centring": ({"training": {"center_rewards_coefficient": -1}}, "found -1 (int), expected float ≥ 0"),
    "a key of TRL's that does nothing here": ({"training": {"max_length": 512}}, "an exchange is never cut"),
    "an unknown part": ({"train": ["tower"]}, "train"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_recipes_that_cannot_work_are_refused(colours, tmp_path, name):
    changes, expected = REFUSED[name]
    with pytest.raises(RecipeError) as caught:
        recipe(colours, tmp_path, **changes)
    assert expected in str(caught.value)


def test_a_family_that_carries_no_head_is_refused_before_rows_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published("llava").config))
    with pytest.raises(RecipeError, match="a score head was never tried on LLaVA-1.5; take one of Qwen2-VL"):
        stage.train(recipe(tmp_path, tmp_path / "run", tmp_path))
    assert not (tmp_path / "run/final").exists()


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_batch_of_text_shows_a_blank_picture_among_processes(positions, monkeypatch):
    """The same scores and gradients; the vision tower's are there, and 0."""
    model = ScoreModel.from_backbone(BASE, positions, dtype="float32")
    record, found = Preference([], "2 + 2?", ["four", "five or so"]), []
    for count in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", count)
        batch = Collator(processor(), model.config)([(0, record)])
        model.zero_grad()
        scores = model(**{name: batch[name] for name in batch if name in FORWARD}).logits
        (scores[0] - scores[1]).sum().backward()
        found.append((scores, {name: one.grad for name, one in model.named_parameters()}))
    (plain, expected), (blank, got) = found
    torch.testing.assert_close(blank, plain, rtol=0, atol=1e-6)
    assert batch["image_grid_thw"].tolist() == [[1, 2, 2]]
    for name, gradient in got.items():
        if ".visual." in name:
            assert expected[name] is None and gradient.eq(0).all()
        else:
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


# --- runs ---


@pytest.fixture(scope="module")
def trained(colours, tmp_path_factory):
    """Run folder of a full training of seconds."""
    output = tmp_path_factory.mktemp("score") / "full"
    stage.train(recipe(colours, output, training={"eval_strategy": "steps", "eval_steps": 7}))
    return output


def measured(folder) -> dict[str, float]:
    return {name: metric["value"] for name, metric in json.loads((folder / "metrics.json").read_text()).items()}


def test_it_learns_to_name_colours_by_looking(trained):
    rows = read_metrics(trained / "metrics.jsonl")
    first, *_, last = [row for row in rows if "loss" in row]
    assert first["pair_accuracy"] < 0.8 and last["pair_accuracy"] == 1.0 and last["loss"] < first["loss"] / 2
    assert {"score/margin", "score/mean", "score/std"} <= last.keys()
    evaluations = [row for row in rows if "eval_loss" in row]
    assert [row["step"] for row in evaluations] == [7, 14]  # the last step's is not done twice
    found = measured(trained)
    assert found["pair_accuracy"] == found["pair_accuracy[relevance]"] >= 0.9
    # with another picture's colour both texts are often wrong, and its own is never more likely than chance
    assert found["shuffled/pair_accuracy"] <= 0.6 and found["image_gain"] >= 0.4
    assert found["nll"] == pytest.approx(evaluations[-1]["eval_loss"], abs=1e-5)
    assert "| pair_accuracy[relevance] |" in (trained / "table.md").read_text()
    assert json.loads((trained / "finished.json").read_text())["pair_accuracy"] == found["pair_accuracy"]
    assert config.load(trained / "recipe.yaml", ScoreRecipe).stage == "score"


def test_workers_change_nothing(trained, colours, tmp_path):
    """The first half of the run again, with two; its evaluation, too."""
    steps = {"max_steps": 7, "eval_strategy": "steps", "eval_steps": 7, "dataloader_num_workers": 2}
    stage.train(recipe(colours, tmp_path / "run", training=steps))
    kept = ("step", "loss", "grad_norm", "pair_accuracy", "score/mean", "eval_loss", "eval_pair_accuracy")
    found, expected = (
        [{key: row[key] for key in kept if key in row} for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (tmp_path / "run", trained)
    )
    expected = [row for row in expected if row["step"] <= 7 and row.keys() > {"step"}]
    assert [row for row in found if row.keys() > {"step"}] == expected and "eval_loss" in expected[-1]


def test_the_saved_model_scores_as_the_run_measured(trained, colours):
    from rewards.score import ScoreModel

    model = ScoreModel.from_pretrained(trained / "final")
    records = list(read(colours / "eval.jsonl"))
    scores = model.score([exchange for record in records for exchange in record.exchanges()])
    terms = [math.log1p(math.exp(worse - better)) for better, worse in zip(scores[::2], scores[1::2], strict=True)]
    assert sum(terms) / len(terms) == pytest.approx(measured(trained)["nll"], abs=1e-4)
    assert model.config.positions == "mrope"


def changed(before: dict, after: dict) -> set[str]:
    """Names of the tensors that differ; both hold the same ones but for the heads."""
    return {name for name, tensor in before.items() if name in after and not torch.equal(tensor, after[name])}


def weights(folder) -> dict:
    """A checkpoint's tensors by their names in transformers 5."""
    from rewards.score import ScoreModel
    from rewards.score.training.trainable import is_score_model

    load = ScoreModel.from_pretrained if is_score_model(str(folder)) else ScoreModel.from_backbone
    return load(folder, "mrope").state_dict()


@pytest.mark.parametrize("parts", [["head"], ["vision_tower", "head"]])
def test_what_train_does_not_name_stays_bit_for_bit(colours, tmp_path, trained, parts):
    """From the score model of an earlier stage, whose head goes on."""
    stage.train(recipe(colours, tmp_path / "run", trained / "final", train=parts, training={"max_steps": 2}))
    moved = changed(weights(trained / "final"), weights(tmp_path / "run/final"))
    assert "reward_head.weight" in moved
    tower = {name for name in moved if ".visual." in name and ".merger." not in name}
    assert moved == tower | {"reward_head.weight"} and bool(tower) == ("vision_tower" in parts)


DEEPSTACK = "model.visual.deepstack_merger_list.*.linear_fc2"


@pytest.mark.parametrize(("kind", "further"), [("qwen2_vl", []), ("qwen3_vl", [DEEPSTACK])])
def test_adapters_are_merged_into_the_final_model(colours, tmp_path, family_checkpoints, kind, further):
    out, base = tmp_path / "run", BASE if kind == "qwen2_vl" else family_checkpoints(kind)
    lora = {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": [*Qwen3VL.linears, *further]}
    changes = {"section": {"lora": lora}, "training": {"max_steps": 2, "gradient_checkpointing": True}}
    stage.train(recipe(colours, out, base, **changes))
    adapter = load_file(out / "adapter/adapter_model.safetensors")
    assert any("reward_head" in name for name in adapter)
    assert any("visual" in name for name in adapter) == bool(further)
    start, end = weights(base), weights(out / "final")
    linears = {name for name in start if name.endswith("_proj.weight") and "language_model" in name}
    linears |= {name for name in start if fnmatch(name, f"{DEEPSTACK}.weight")} if further else set()
    assert linears and changed(start, end) == linears | {"reward_head.weight"}


def test_full_determinism_meets_nothing_that_cuda_refuses(colours, tmp_path):
    """A step and an evaluation."""
    asked = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "full_determinism": True}
    with restored(), AsOnCUDA() as mode:
        stage.train(recipe(colours, tmp_path / "run", training=asked))
    assert mode.calls["log_sigmoid_forward"] and (tmp_path / "run/final").is_dir()


def test_accumulated_batches_are_one_batch(colours, tmp_path):
    """Two micro-batches of 4 records take the step of one batch of 8 (SGD, so that the step is the gradient)."""
    common = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1}
    one, two = (
        recipe(colours, tmp_path / str(count), training=common | {"per_device_train_batch_size": 8 // count,
               "gradient_accumulation_steps": count}, data={"train": [{"path": str(colours / "train.jsonl")}]})
        for count in (1, 2)
    )  # fmt: skip
    first, second, start = weights(stage.train(one)), weights(stage.train(two)), weights(BASE)
    assert max((first[name] - start[name]).abs().max() for name in start) > 1e-3
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-6
    assert not (tmp_path / "1/metrics.json").exists()  # nothing was held out


def test_dry_run(colours, tmp_path, started):
    """A plan without weights: the base is a name that can't be reached, 32 records of two candidates in 4 steps."""
    recipe(colours, tmp_path / "run")
    changes = ["model.path=Qwen/Qwen2-VL-7B-Instruct", "train=[head]", "training.max_steps=-1", "gpus=1xA100-80G"]
    more = ["training.num_train_epochs=1", "--dry-run"]
    said = started("launch/score.py", colours / "recipe.yaml", *changes, *more)
    lines = {parts[1].strip(): parts[2].strip() for line in said.splitlines() if (parts := line.split("│"))[1:]}
    assert lines["rows in the data"] == "32" and lines["steps in all"] == "4"
    assert lines["language_model"] == "7,070,622,720"  # Qwen2-VL-7B without its LM head, with 3,584 weights of ours
    assert "16 exchanges a GPU in one forward pass" in said and not (tmp_path / "run").exists()
