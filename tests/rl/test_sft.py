"""The supervised stage: what is learnt, token by token, and what is trained."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sft.recipe import SFTRecipe
from stage.recipe import config
from stage.runs import read_metrics
from tests.support.runs.deterministic import AsOnCUDA, restored
from tests.support.sample_rows import dump
from vlm.common.errors import DataError
from vlm.families import FAMILIES

pytestmark = pytest.mark.xdist_group("sft")
RECIPE = Path(__file__).parents[2] / "recipes/demo/sft.yaml"
SYSTEM = "Think, then answer."


def say(role, content):
    return {"role": role, "content": content}


ROWS = {
    "grounding": [say("user", "the red ship"), say("assistant", "<think>a</think><answer>(1,2),(3,40)</answer>")],
    "turns": [
        say("user", "How many ships are there?"),
        say("assistant", "<answer>2</answer>"),
        say("user", "Is one of them red, or are both of them of some other color?"),
        say("assistant", "no"),
    ],
    "text": [say("user", "What color is the tank?"), say("assistant", "it cannot be seen.")],
    "placed": [
        say("user", "Before: <image> After: <image>. What was built?"),
        say("assistant", "a dam"),
        say("user", "And here? <image>"),
        say("assistant", "a road"),
    ],
}
"""name → turns."""
PICTURES = {"grounding": 1, "turns": 1, "text": 0, "placed": 3}


@pytest.fixture
def rows(tmp_path):
    """The rows as our JSONL, in order, pictures of different sizes."""
    Image.new("RGB", (224, 224), (90, 30, 30)).save(tmp_path / "grounding.png")
    Image.new("RGB", (400, 100), (30, 30, 90)).save(tmp_path / "turns.png")
    Image.new("RGB", (224, 224), (30, 90, 90)).save(tmp_path / "placed.png")

    def record(name):
        found = {"images": [f"{name}.png"] * PICTURES[name], "messages": ROWS[name], "id": name}
        if name == "grounding":
            return found | {"task": name, "boxes": [[1, 2, 30, 40]]}
        return found | {"task": "vqa", "answer": "x"}

    return dump(tmp_path / "rows.jsonl", [record(name) for name in ROWS])


def recipe(model, data, output, *overrides) -> SFTRecipe:
    """The demo's own recipe on small data; each of `overrides` is key=value."""
    changes = (f"model.path={model}", f"data.train.0.path={data}", f"output={output}", "overwrite=true")
    steps = ("training.logging_steps=1", "training.warmup_steps=0", "training.lr_scheduler_type=constant")
    return config.load(RECIPE, SFTRecipe, [*changes, *steps, *overrides])


@pytest.fixture
def run(tiny_model, rows, tmp_path, monkeypatch):
    """Run the stage on the rows; returns its trainer, with the run folder as `folder`."""
    from sft import stage
    from stage.trainer import finish

    kept, save = [], finish.save_model
    monkeypatch.setattr(finish, "save_model", lambda trainer, *rest: kept.append(trainer) or save(trainer, *rest))

    def start(*overrides, data=rows, train=True):
        with monkeypatch.context() as patch:
            if not train:
                patch.setattr("trl.SFTTrainer.train", lambda self, *_: None)
                patch.setattr(finish, "check_trained", lambda trainer: None)
                patch.setattr("stage.curves.draw", lambda *_, **__: None)
            stage.train(recipe(tiny_model, data, tmp_path / "run", *overrides))
        trainer = kept[-1]
        trainer.folder = tmp_path / "run"
        return trainer

    return start


def by_hand(words, name) -> tuple[list[int], list[int]]:
    """(ids, labels) of a row: the chat written out by hand, tokenised piece by piece, each learnt or not."""
    pieces = [(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n", False)]
    for number, turn in enumerate(ROWS[name]):
        text = turn["content"]
        if turn["role"] == "user":
            if name == "grounding":
                text = f"Where is {text}?"
            if number == 0 and "<image>" not in text:
                text = "<image>" * PICTURES[name] + text
            text = text.replace("<image>", f"<|vision_start|>{'<|image_pad|>' * 16}<|vision_end|>")
            pieces.append((f"<|im_start|>user\n{text}<|im_end|>\n", False))
        else:
            # TRL counts the line break behind <|im_end|> as the assistant's too; nobody samples beyond <|im_end|>
            pieces += [("<|im_start|>assistant\n", False), (f"{text}<|im_end|>\n", True)]
    ids, labels = [], []
    for text, learnt in pieces:
        tokens = words(text, add_special_tokens=False).input_ids
        ids += tokens
        labels += tokens if learnt else [-100] * len(tokens)
    return ids, labels


@pytest.mark.parametrize(
    "names", [("grounding", "turns", "text"), ("text", "grounding"), ("turns",), ("text",), ("placed", "turns")]
)
def test_the_loss_counts_the_assistants_tokens_only(run, names):
    trainer = run(train=False)
    assert trainer.args.assistant_only_loss and trainer.args.max_length is None
    order = list(ROWS)
    batch = trainer.data_collator([trainer.train_dataset[order.index(name)] for name in names])
    words = trainer.processing_class.tokenizer
    expected = [by_hand(words, name) for name in names]
    width = max(len(ids) for ids, _ in expected)
    for row, (ids, labels) in enumerate(expected):
        rest = width - len(ids)
        assert batch["input_ids"][row].tolist() == ids + [words.pad_token_id] * rest
        assert batch["labels"][row].tolist() == labels + [-100] * rest
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * rest
    learnt = batch["labels"][batch["labels"] != -100]
    assert not set(learnt.tolist()) & {words.pad_token_id, trainer.processing_class.image_token_id}
    turns = sum(turn["role"] == "assistant" for name in names for turn in ROWS[name])
    assert (learnt == words.convert_tokens_to_ids("<|im_end|>")).sum() == turns
    assert len(batch.get("image_grid_thw", [])) == sum(PICTURES[name] for name in names)


def test_the_loss_is_the_mean_over_those_tokens(run, tiny_model):
    """Computed from the logits of a model loaded anew, one row at a time, without padding."""
    from vlm.loading import load_model
    from vlm.sections import ModelSection

    trainer = run(train=False)
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(3)])
    got = trainer.compute_loss(trainer.model.eval(), copy.deepcopy(dict(batch))).item()
    model = load_model(ModelSection(path=tiny_model, dtype="float32", attention="eager")).eval()
    terms = []
    for row, name in enumerate(list(ROWS)[:3]):
        ids, labels = by_hand(trainer.processing_class.tokenizer, name)
        inputs = {"input_ids": torch.tensor([ids])}
        if name != "text":
            image = slice(64 * row, 64 * (row + 1))
            inputs |= {"pixel_values": batch["pixel_values"][image], "image_grid_thw": batch["image_grid_thw"][[row]]}
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == trainer.processing_class.image_token_id).long()
        with torch.no_grad():
            logp = model(**inputs).logits[0, :-1].log_softmax(-1)
        terms += [-logp[n, label].item() for n, label in enumerate(labels[1:]) if label != -100]
    assert got == pytest.approx(sum(terms) / len(terms), abs=1e-5)


def moved(trainer, tiny_model) -> set[str]:
    """Names of the stored tensors that training has changed."""
    before, after = load_file(f"{tiny_model}/model.safetensors"), load_file(trainer.folder / "final/model.safetensors")
    assert set(before) == set(after)
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_a_repeated_batch_is_learnt_and_every_weight_moves(run, tiny_model):
    trainer = run("training.max_steps=4", "training.per_device_train_batch_size=3", "training.learning_rate=0.003")
    losses = [row["loss"] for row in read_metrics(trainer.folder / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.5
    stored = set(load_file(f"{tiny_model}/model.safetensors"))
    still = stored - moved(trainer, tiny_model)
    # a bias of the keys shifts all scores of a row alike, so softmax gives it no gradient but rounding's
    assert all(name.endswith(("k_proj.bias", "qkv.bias")) for name in still)


def test_a_frozen_vision_tower_stays(run, tiny_model):
    trainer = run(
        "model.freeze=[vision_tower]", "training.max_steps=2", "training.per_device_train_batch_size=3",
        "training.learning_rate=0.003",
    )  # fmt: skip
    names = moved(trainer, tiny_model)
    assert names and not any("visual." in name and ".merger." not in name for name in names)
    assert any(".merger." in name for name in names) and any("layers.0." in name for name in names)


def test_lora_trains_adapters_of_the_language_model_only(run, tiny_model):
    trainer = run(
        "model.lora={r: 2, alpha: 4, dropout: 0.0}", "training.max_steps=2", "training.learning_rate=0.003",
        "training.per_device_train_batch_size=3",
    )  # fmt: skip
    adapter = load_file(trainer.folder / "final/adapter_model.safetensors")
    assert not (trainer.folder / "final/model.safetensors").exists()
    assert len(adapter) == 4 * 7 * 2  # 4 layers, 7 linears, A and B
    assert all("lora_" in name and "visual" not in name for name in adapter)
    assert all(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)  # B starts at zero
    before = load_file(f"{tiny_model}/model.safetensors")
    base = trainer.model.get_base_model().state_dict()
    plain = {name.replace(".base_layer", ""): value for name, value in base.items() if "lora_" not in name}
    head, vision, linear = "lm_head.weight", "visual.blocks.0.attn.qkv.weight", "layers.0.self_attn.q_proj.weight"
    for end in (head, vision, linear):
        (old,), (new,) = ([v for k, v in group.items() if k.endswith(end)] for group in (before, plain))
        assert torch.equal(old, new), end


def test_full_determinism_meets_nothing_that_cuda_refuses(run):
    with restored(), AsOnCUDA() as mode:
        trainer = run("training.full_determinism=true", "training.max_steps=1")
    assert mode.calls["embedding_dense_backward"] and trainer.state.global_step == 1


def test_rows_without_a_picture_train_alone_too(run):
    """One row a step: the text-only one is a batch of its own."""
    trainer = run("training.per_device_train_batch_size=1", "training.num_train_epochs=1")
    losses = [row["loss"] for row in read_metrics(trainer.folder / "metrics.jsonl") if "loss" in row]
    assert len(losses) == len(ROWS) and all(0 < loss < 20 for loss in losses)


def test_traces_of_the_demo_train(run, demo_data):
    trainer = run("training.max_steps=1", "training.per_device_train_batch_size=8", data=demo_data / "sft/traces.json")
    assert trainer.state.global_step == 1
    (first, *_) = trainer.data_collator([trainer.train_dataset[0]])["labels"]
    said = trainer.processing_class.tokenizer.decode([token for token in first.tolist() if token != -100])
    assert said.startswith("<think>") and said.endswith("</answer><|im_end|>\n")


def test_the_saved_template_is_the_published_one(run):
    """TRL trains by a template with marks in it; what is saved is what the next stage should ask by."""
    from trl.chat_template_utils import qwen2_5_vl_chat_template

    trainer = run(train=False)
    assert "{% generation" not in trainer.processing_class.chat_template
    assert (trainer.folder / "final/chat_template.jinja").read_text() == qwen2_5_vl_chat_template


# rows of which nothing would be learned


def faults(rows, tmp_path, tiny_model, limit, on_fault="skip"):
    """(kinds of faults, teaching) of rows under a `max_length`, read as a run reads them."""
    from samples import mixture
    from sft.teaching import Teaching

    asked = recipe(tiny_model, rows, tmp_path / "run", f"training.max_length={limit}", f"data.on_fault={on_fault}")
    teaching = Teaching(asked)
    found = mixture.draw(asked.data, "train", 0, teaching)
    return found, teaching


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_refused_where_its_label_or_picture_is_cut(rows, tmp_path, tiny_model, name, capsys):
    """Against the ids and labels by hand, at the last length of each outcome and the first of the next."""
    from tests.support.tiny_checkpoints import pixels
    from vlm.loading import load_processor

    (tmp_path / "alone.jsonl").write_text(
        next(line for line in rows.read_text().splitlines(keepends=True) if f'"id": "{name}"' in line)
    )
    words = load_processor(tiny_model, pixels()).tokenizer
    ids, labels = by_hand(words, name)
    picture = words.convert_tokens_to_ids("<|image_pad|>")
    shown = max((place + 1 for place, token in enumerate(ids) if token == picture), default=0)
    first = next(place for place, label in enumerate(labels) if label != -100)
    expected = {shown - 1: "picture", max(shown, first): "reply" if first >= shown else None}
    expected |= {max(shown, first + 1): None, len(ids) - 1: None, len(ids): None}
    for limit, kind in expected.items():
        if limit < 1:
            continue
        if kind is None:
            found, teaching = faults(tmp_path / "alone.jsonl", tmp_path, tiny_model, limit)
            assert found.rows == 1 and teaching.tally["cut"] == (limit < len(ids)), limit
            continue
        with pytest.raises(DataError, match=f"{dict(picture='pictures that end', reply='a reply that begins')[kind]}"):
            faults(tmp_path / "alone.jsonl", tmp_path, tiny_model, limit, "error")
    for _ in range(2):  # read, then from the kept table
        _, teaching = faults(tmp_path / "alone.jsonl", tmp_path, tiny_model, len(ids) - 1)
        assert teaching.tally == {"rows": 1, "cut": 1}
    teaching.tell()
    assert f"1 of 1 rows are longer than training.max_length = {len(ids) - 1}" in capsys.readouterr().err


def test_a_reply_without_text_is_a_fault_of_its_row(tmp_path, tiny_model):
    rows = [[say("user", "Why?"), say("assistant", text)] for text in ("so", "", " \n")]
    path = dump(
        tmp_path / "rows.jsonl", [{"images": [], "messages": turns, "task": "vqa", "answer": "x"} for turns in rows]
    )
    found, _ = faults(path, tmp_path, tiny_model, "null")
    assert found.rows == 1
    with pytest.raises(
        DataError, match=r"rows.jsonl, line 2, field 'messages\[2\]': found an assistant turn without text"
    ):
        faults(path, tmp_path, tiny_model, "null", "error")


def test_a_template_that_cannot_be_rendered_here_is_said(tmp_path, tiny_model, capsys):
    """strftime_now and the like are transformers' own."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text("{% set day = strftime_now('%d') %}" + template.read_text())
    turns = [say("user", "Why?"), say("assistant", "so")]
    path = dump(tmp_path / "rows.jsonl", [{"images": [], "messages": turns, "task": "vqa", "answer": "x"}])
    found, _ = faults(path, tmp_path, folder, 4)
    assert found.rows == 1
    said = "whether training.max_length = 4 cuts rows is not known: the chat template cannot be rendered"
    assert said in capsys.readouterr().err


# templates


@pytest.mark.parametrize(
    ("change", "system"),
    [(lambda text: text + "\n\n", "You are a helpful assistant."), (lambda text: text, "Look closely, and be brief.")],
)
def test_templates_near_the_published_one_are_marked(tiny_model, change, system):
    """Labels of a row without a system turn, by hand; TRL refuses both templates."""
    from sft import template
    from tests.support.tiny_checkpoints import pixels
    from vlm.loading import load_processor

    processor = load_processor(tiny_model, pixels())
    processor.chat_template = change(processor.chat_template.replace("You are a helpful assistant.", system))
    template.check(processor, "m")
    found = processor.apply_chat_template(
        [say("user", "Why?"), say("assistant", "so")],
        chat_template=FAMILIES["qwen2_vl"].marked(processor.chat_template),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    (ids,), (mask,) = found["input_ids"], found["assistant_masks"]
    head = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert processor.tokenizer.decode(ids) == head + "so<|im_end|>\n"
    assert (
        processor.tokenizer.decode([one for one, learnt in zip(ids, mask, strict=True) if learnt]) == "so<|im_end|>\n"
    )


def test_a_template_that_is_not_known_is_refused_with_its_remedy(tiny_model):
    from sft import template
    from tests.support.tiny_checkpoints import pixels
    from vlm.common.errors import RecipeError
    from vlm.loading import load_processor

    processor = load_processor(tiny_model, pixels())
    plain = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    processor.chat_template = plain
    with pytest.raises(RecipeError, match=r"template of m does not mark .*\{% generation %\}"):
        template.check(processor, "m")
    processor.chat_template = plain.replace("{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}")
    template.check(processor, "m")


def test_a_run_on_another_default_system_prompt(run, tiny_model, tmp_path):
    """It learns the assistant's tokens only, and saves the checkpoint's own template."""
    import shutil

    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model/chat_template.jinja"
    file.write_text(file.read_text().replace("You are a helpful assistant.", "Be brief.") + "\n")
    trainer = run(f"model.path={tmp_path / 'model'}", train=False)
    words = trainer.processing_class.tokenizer
    batch = trainer.data_collator([trainer.train_dataset[0]])
    expected = by_hand(words, "grounding")
    assert (batch["input_ids"][0].tolist(), batch["labels"][0].tolist()) == expected
    assert (trainer.folder / "final/chat_template.jinja").read_text() == file.read_text()


def test_a_batch_of_text_shows_a_blank_picture_among_processes(run, monkeypatch):
    """The same loss and gradients; the vision tower's are there, and 0."""
    trainer = run(train=False)
    text = [trainer.train_dataset[list(ROWS).index("text")]]
    found = []
    for count in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", count)
        batch = trainer.data_collator(copy.deepcopy(text))
        batch.pop("row_names")
        trainer.model.zero_grad()
        loss = trainer.model(**batch).loss
        loss.backward()
        found.append((loss.item(), {name: one.grad for name, one in trainer.model.named_parameters()}))
    (plain, expected), (blank, got) = found
    assert blank == pytest.approx(plain, abs=1e-6) and batch["image_grid_thw"].tolist() == [[1, 2, 2]]
    for name, gradient in got.items():
        if ".visual." in name:
            assert expected[name] is None and gradient.eq(0).all()
        else:
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_workers_change_nothing(run, rows, tmp_path, monkeypatch):
    """Two passes with sizes drawn anew and a picture that goes bad and is replaced: alike without workers, with two
    that live through both passes, and resumed inside of the second, when they are four batches ahead."""
    from stage.runs import Run
    from vlm.pictures.cache import decoded

    whole, begun = (tmp_path / "turns.png").read_bytes(), Run.note_mixtures

    def damage(self, found):
        begun(self, found)
        decoded.clear()
        (tmp_path / "turns.png").write_bytes(b"gone")

    monkeypatch.setattr(Run, "note_mixtures", damage)
    common = ["images.min_pixels=3136", "images.max_pixels=50176", "data.on_fault=skip", "training.num_train_epochs=2"]
    common += ["images.random_resize={min_pixels: 3136, max_pixels: 50176}", "training.per_device_train_batch_size=1"]
    common += ["training.save_strategy=steps", "training.save_steps=5", "training.max_steps=-1", "overwrite=false"]
    two = ["training.dataloader_num_workers=2", "training.dataloader_persistent_workers=true"]
    found = []
    for name, more in {"0": [], "2": two, "again": [*two, f"resume={tmp_path}/2/checkpoint-5"]}.items():
        (tmp_path / "turns.png").write_bytes(whole)
        trainer = run(*common, *more, f"output={tmp_path / name}")
        kept = ("step", "loss", "grad_norm", "num_tokens")
        metrics = [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row]
        found.append([{key: row[key] for key in kept} for row in metrics])
        weights = load_file(tmp_path / name / "final/model.safetensors")
        expected = load_file(tmp_path / "0/final/model.safetensors")
        assert [tensor for tensor in expected if not weights[tensor].equal(expected[tensor])] == []
        record = json.loads((tmp_path / name / "record.json").read_text())
        assert record["processes"]["data_loader_workers"] == trainer.args.dataloader_num_workers == (2 if more else 0)
    assert found[0] == found[1] and found[0][5:] == found[2] and len(found[0]) == 8
    # the order of four rows is another in each pass; the sums of their lengths differ by the sizes alone
    assert found[0][3]["num_tokens"] * 2 != found[0][7]["num_tokens"]


def test_no_step_is_no_finished_run(tiny_model, rows, tmp_path):
    """Data that fill no batch, where incomplete ones are dropped: before weights load; and after a training of none."""
    from sft import stage
    from stage.trainer import finish
    from vlm.common.errors import RecipeError, UserError

    asked = recipe(tiny_model, rows, tmp_path / "run", "training.dataloader_drop_last=true")
    for begin in (stage.train, stage.plan):
        with pytest.raises(RecipeError, match="has 4 rows, less than the 16 of one batch on 1 processes"):
            begin(asked)

    def after(steps):
        args = SimpleNamespace(dataloader_drop_last=True, world_size=2, per_device_train_batch_size=8)
        state = SimpleNamespace(global_step=steps)
        finish.check_trained(SimpleNamespace(args=args, state=state, train_dataset=[0] * 9))

    after(1)
    with pytest.raises(UserError, match="no step was trained: 9 rows fill no batch .* 8 on 2 processes"):
        after(0)
