"""`rl.GRPOTrainer` against trl 1.16.0, against numbers by hand, and against single-row forward passes."""

import inspect
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest
import torch
import trl
from PIL import Image
from safetensors.torch import load_file, save_file

import rewards
import rl
from rl.recipe import GRPORecipe
from samples import Sample
from samples.rows import prompt_rows
from samples.sections import DataSection, SourceSection
from sft.trainer import SFTTrainer
from stage.trainer.arguments import arguments
from tests.support.runs.deterministic import AsOnCUDA, restored
from tests.support.runs.scripted import Scripted
from tests.support.tiny_checkpoints import hub, section
from vlm.loading import commit_of, load_model, load_processor
from vlm.sections import ImageSection, ModelSection, PromptSection

pytestmark = [pytest.mark.versions, pytest.mark.xdist_group("grpo")]
LIMITS = ImageSection(min_pixels=112 * 112, max_pixels=112 * 112)
GROUND = {"boxes": [[0.0, 0.0, 112.0, 112.0]], "size": (224, 224), "task": "grounding"}


def dataset(tmp_path, count=2, side=224):
    """Prompts of unequal length, each with a picture of its own: grounding and VQA in turn."""
    samples = []
    for n in range(count):
        path = tmp_path / f"{n}.png"
        Image.effect_noise((side, side), 40 + 20 * n).convert("RGB").save(path)
        text = f"the red ship {n}" + " or the small tank in the upper left corner" * n
        question = [{"role": "user", "content": text}]
        truth = GROUND if n % 2 == 0 else {"task": "vqa", "answer": "yes"}
        samples.append(Sample([str(path)], question, id=str(n), **truth))
    return prompt_rows(samples, PromptSection(system="Think."))


def recipe(model, output, cls=GRPORecipe, **training):
    small = {"per_device_train_batch_size": 4, "max_steps": 1}
    small |= {"num_generations": 2, "max_completion_length": 6} if cls is GRPORecipe else {}
    small |= {"gradient_checkpointing": False, "learning_rate": 1e-3, "logging_steps": 1}
    data = DataSection(train=[SourceSection(path="nowhere.jsonl")])  # the trainer is given rows
    made = cls(model=ModelSection(path=str(model), dtype="float32", attention="sdpa"), output=str(output), data=data)
    made.training = small | training
    return made


@pytest.fixture
def build(tiny_model, tmp_path):
    """A trainer on the tiny model: (reward functions, class, padding side, training keys) → trainer."""

    def make(functions=None, cls=rl.GRPOTrainer, side="left", model=None, rows=None, **training):
        processor = load_processor(tiny_model, LIMITS)
        processor.tokenizer.padding_side = side
        args = arguments(trl.GRPOConfig, recipe(tiny_model, tmp_path / "run", **training), log_completions=True)
        args.num_completions_to_print = 0
        functions = functions or [lambda completions, **_: [float(n % 2) for n in range(len(completions))]]
        model = model or load_model(section(tiny_model))
        return cls(model, functions, args, rows or dataset(tmp_path), processing_class=processor)

    return make


# the upstream it stands on


def test_it_takes_what_trls_trainer_takes():
    theirs = list(inspect.signature(trl.GRPOTrainer).parameters.values())
    ours = list(inspect.signature(rl.GRPOTrainer).parameters.values())
    named = [p for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in named] == [(p.name, p.default) for p in theirs[: len(named)]]
    own = [p for p in ours if p.kind is p.KEYWORD_ONLY]
    assert [(p.name, p.default) for p in own] == [("share_prefix", True), ("check_sharing", True)]
    rest = [p.kind for p in ours if p not in named and p not in own]
    assert rest == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]


def test_a_path_and_nothing_else_is_enough(tiny_model, tmp_path, monkeypatch):
    """As in TRL: model by name, default arguments; the processor too, which TRL cannot load without torchvision."""
    plain = trl.GRPOConfig  # its own defaults ask for a GPU
    monkeypatch.setattr(trl, "GRPOConfig", lambda output: plain(output, use_cpu=True, report_to="none"))
    monkeypatch.chdir(tmp_path)
    trainer = rl.GRPOTrainer(
        tiny_model, lambda completions, **_: [0.0] * len(completions), train_dataset=dataset(tmp_path, 8)
    )
    assert trainer.args.output_dir == f"{Path(tiny_model).name}-GRPO"
    assert type(trainer.model).__name__ == "Qwen2VLForConditionalGeneration"
    size = trainer.processing_class.image_processor.size
    assert size["shortest_edge"] == size["longest_edge"] == 112 * 112  # the checkpoint's own
    assert trainer.generation_config.suppress_tokens == sorted(banned(trainer._tokenizer))


@pytest.mark.parametrize("sync", [False, True])
def test_the_reference_is_of_the_policys_revision(build, tiny_model, tmp_path, monkeypatch, sync):
    """A pinned policy, and a branch main with other weights, as TRL would take them: by the name alone."""
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    hub(tmp_path / "cache", monkeypatch, main=other, v1=tiny_model)
    policy = load_model(section("nobody/model", revision="v1"))
    trainer = build(model=policy, beta=0.1, sync_ref_model=sync)
    given, reference = policy.state_dict(), trainer.ref_model.state_dict()
    assert given.keys() == reference.keys() and all(torch.equal(given[name], reference[name]) for name in given)
    assert policy.config._name_or_path == policy.name_or_path == "nobody/model"  # what is saved names no cache
    policy.save_pretrained(tmp_path / "saved")
    assert commit_of(policy) not in (tmp_path / "saved/config.json").read_text()
    assert commit_of(load_model(section(tiny_model))) is None


def test_full_determinism_meets_nothing_that_cuda_refuses(build):
    """A step with nucleus sampling, reference model, KL and the entropy mask, with shared prompts and without."""
    with restored(), AsOnCUDA() as mode:
        trainer = build(full_determinism=True, top_p=0.9, min_p=0.01, top_k=50, beta=0.1, top_entropy_quantile=0.5)
        trainer.train()  # its first batch both ways
        assert torch.are_deterministic_algorithms_enabled()
    assert mode.calls["cumsum"] and mode.calls["embedding_dense_backward"] and trainer.state.global_step == 1


def parts(trainer: type) -> list[type]:
    """The classes of ours that a trainer is made of, outermost first."""
    return [cls for cls in trainer.__mro__ if cls.__module__.partition(".")[0] in ("rl", "sft", "stage")]


def overridden(trainer: type, cls: type) -> set[str]:
    """Methods of `cls` that a class behind it in the trainer's order has, too."""
    behind = trainer.__mro__[trainer.__mro__.index(cls) + 1 :]
    methods = {name for name, value in vars(cls).items() if inspect.isroutine(value)}
    return {name for name in methods if any(name in vars(other) for other in behind)}


TRAINERS = [(rl.GRPOTrainer, trl.GRPOTrainer), (SFTTrainer, trl.SFTTrainer)]
PARTS = [
    pytest.param(trainer, upstream, cls, id=f"{upstream.__name__}-{cls.__name__}")
    for trainer, upstream in TRAINERS
    for cls in parts(trainer)
]


@pytest.mark.parametrize(("trainer", "upstream", "cls"), PARTS)
def test_each_part_says_what_it_overrides(trainer, upstream, cls):
    """Its docstring lists these methods and no other; each can be called as TRL calls its own."""
    listed = re.split(r"\.\s", cls.__doc__.partition("Overridden:")[2])[0]
    assert set(re.findall(r"`([a-z_]+)`", listed)) == overridden(trainer, cls)
    for name in overridden(trainer, cls):
        whose = upstream if hasattr(upstream, name) else super(cls, trainer)
        theirs = dict(inspect.signature(getattr(whose, name)).parameters)
        theirs.pop("self", None)
        mine = [p for p in inspect.signature(vars(cls)[name]).parameters.values() if p.name != "self"]
        for place, parameter in enumerate(p for p in mine if p.kind is p.POSITIONAL_OR_KEYWORD):
            assert place == list(theirs).index(parameter.name), name
            assert name == "__init__" or parameter.default == theirs[parameter.name].default, name
        added = {p.name for p in mine if p.kind is p.KEYWORD_ONLY and p.name not in theirs}
        assert added <= {"share_prefix", "check_sharing", "toolbox", "notation"}, name
        taken = {p.name for p in mine} | (theirs.keys() if any(p.kind is p.VAR_KEYWORD for p in mine) else set())
        assert theirs.keys() <= taken, name


def test_the_trainers_docstring_goes_through_its_parts_in_order():
    named = re.findall(r"^    `([\w.]+)`", inspect.getmodule(rl.GRPOTrainer).__doc__, re.MULTILINE)
    bases = [f"{cls.__module__}.{cls.__name__}" for cls in rl.GRPOTrainer.__bases__]
    assert named == ["rl.arguments.handed_over", *bases[:-1]] and bases[-1] == "trl.trainer.grpo_trainer.GRPOTrainer"


def test_the_upstream_methods_are_as_they_were():
    """What the parts in `rl` and this file override or call; raise the pin of trl only with this test."""
    assert trl.__version__ == "1.16.0"
    expected = {
        "_calculate_rewards": "(self, inputs, prompts, completions, completion_ids_list)",
        "_log_completion_extra": "(self, column: str, values: list)",
        "log": "(self, logs: dict[str, float], start_time: float | None = None) -> None",
        "_generate_single_turn": "(self, prompt_ids, images, multimodal_fields, num_generations, "
        "has_tool_images=False)",
        "_generate": "(self, prompts: list)",
        "_tokenize_prompts": "(self, prompts: list)",
        "_generate_and_score_completions": "(self, inputs: list[dict[str, torch.Tensor | typing.Any]]) -> "
        "dict[str, torch.Tensor | typing.Any]",
        "_prepare_inputs": "(self, generation_batch: dict[str, torch.Tensor | typing.Any]) -> "
        "dict[str, torch.Tensor | typing.Any]",
        "_get_per_token_logps_and_entropies": "(self, model, input_ids, attention_mask, logits_to_keep, "
        "batch_size=None, compute_entropy=False, compute_aux_loss=False, pixel_values=None, image_grid_thw=None, "
        "num_images=None, pixel_attention_mask=None, spatial_shapes=None, num_tiles=None, image_sizes=None, "
        "token_type_ids=None, mm_token_type_ids=None, image_position_ids=None) -> "
        "tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]",
    }
    for name, signature in expected.items():
        assert str(inspect.signature(getattr(trl.GRPOTrainer, name))) == signature, name
    ours = set().union(*(overridden(rl.GRPOTrainer, cls) for cls in parts(rl.GRPOTrainer) if "rl." in cls.__module__))
    assert expected.keys() == ours & vars(trl.GRPOTrainer).keys() - {"__init__"} | {"_log_completion_extra"}
    source = inspect.getsource(trl.GRPOTrainer)
    assert 'self._logs["prompt"]' in source and 'generation_kwargs["suppress_tokens"]' in source
    assert "generation_kwargs.update(args.generation_kwargs)" in source  # what lets our ban through


# placeholders are never sampled


def banned(words) -> set[int]:
    return {words.convert_tokens_to_ids(token) for token in ("<|image_pad|>", "<|video_pad|>")}


class Recording(rl.GRPOTrainer):
    """Keeps the inputs of every training step."""

    def _compute_loss(self, model, inputs):
        self.__dict__.setdefault("seen", []).append({key: inputs[key] for key in inputs})
        return super()._compute_loss(model, inputs)


def test_a_policy_that_wants_image_tokens_gets_none(build, tiny_model):
    """Logits of both placeholders raised by 10,000: unbanned, it says nothing else; trained by us, it cannot."""
    model = load_model(section(tiny_model))
    wanted = sorted(banned(load_processor(tiny_model, LIMITS).tokenizer))

    def prefer(module, inputs, logits):
        logits[..., wanted] += 10_000.0
        return logits

    model.lm_head.register_forward_hook(prefer)
    plain = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    assert set(plain[0, 3:].tolist()) <= set(wanted)
    trainer = build(cls=Recording, model=model, max_steps=2)
    trainer.train()  # the second step, with its new rollouts, is where a sampled placeholder would stop it
    assert len(trainer.seen) == 2
    for inputs in trainer.seen:
        assert inputs["completion_mask"].sum() >= 4 and not set(inputs["completion_ids"].unique().tolist()) & set(
            wanted
        )


def test_the_ban_reaches_every_backend_and_keeps_the_users_settings():
    from rl.arguments import ban

    def after(**given):
        args = SimpleNamespace(use_vllm=False, generation_kwargs=None)
        args.__dict__.update(given)
        ban(args, [7, 9])
        return args.generation_kwargs

    assert after() == {"suppress_tokens": [7, 9]}
    mine = {"suppress_tokens": [3, 9], "no_repeat_ngram_size": 4}
    assert after(generation_kwargs=mine) == {"suppress_tokens": [3, 7, 9], "no_repeat_ngram_size": 4}
    assert mine["suppress_tokens"] == [3, 9]
    assert after(use_vllm=True) == {"logit_bias": {7: -100.0, 9: -100.0}}
    mine = {"logit_bias": {"5": 2.0, 9: 1.0}, "seed": 1}
    assert after(use_vllm=True, generation_kwargs=mine) == {"logit_bias": {5: 2.0, 7: -100.0, 9: -100.0}, "seed": 1}


def test_vllm_is_handed_the_ban(build, monkeypatch, tiny_model):
    handed = {}
    monkeypatch.setattr("rl.engine.Engine", lambda **given: handed.update(given))
    build(use_vllm=True, vllm_mode="colocate")
    words = load_processor(tiny_model, LIMITS).tokenizer
    assert handed["generation_kwargs"] == {"logit_bias": dict.fromkeys(banned(words), -100.0)}


# log-probabilities


@pytest.mark.parametrize("side", ["right", "left"])
def test_log_probabilities_do_not_depend_on_padding(build, tiny_model, side):
    """Unequal prompts and completions in one batch against each row alone, unpadded, with pixels prepared here."""
    trainer = build(cls=Recording, side=side, learning_rate=0.0, temperature=0.7, max_completion_length=9)
    trainer.train()
    (inputs,) = trainer.seen
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    keep = inputs["completion_ids"].shape[1]
    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    media = {name: inputs[name] for name in names}
    got, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep, **media)
    assert len(set(inputs["prompt_mask"].sum(1).tolist())) == 2  # there is padding to go wrong

    processor = load_processor(tiny_model, LIMITS)
    alone, table = load_model(section(tiny_model, attention="eager")).eval(), trainer.train_dataset
    for row, (tokens, there) in enumerate(zip(ids, mask, strict=True)):
        tokens = tokens[there.bool()][None]
        number = 1 if "upper left" in processor.tokenizer.decode(tokens[0]) else 0
        image = processor.image_processor(table[number]["images"], return_tensors="pt")
        kinds = (tokens == processor.image_token_id).long()
        with torch.no_grad():
            logits = alone(input_ids=tokens, mm_token_type_ids=kinds, **image).logits[0, :-1] / 0.7
        expected = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        length = int(inputs["completion_mask"][row].sum())
        assert (got[row, :length] - expected[-length:]).abs().max() < 1e-5


# rewards and advantages


def test_advantages_and_masked_rewards_by_hand(build, tmp_path):
    """Two groups of four; the second reward weighs 2 and does not apply everywhere; one row nobody scores."""
    first = [1.0, 0.0, 0.5, 0.5, 1.0, 1.0, None, 0.0]
    second = [0.0, 1.0, None, None, None, 0.5, None, 0.0]
    functions = [lambda completions, **_: first, lambda completions, **_: second]
    trainer = build(
        functions, cls=Scripted, per_device_train_batch_size=8, num_generations=4, reward_weights=[1.0, 2.0]
    )
    trainer.script = ["a"] * 8
    trainer.train()
    # group 1: 1, 2, 0.5, 0.5: mean 1, squares 0 + 1 + 0.25 + 0.25 = 1.5, sd² = 1.5 / 3 = 0.5
    # group 2: 1, 2, –, 0:      mean 1, squares 0 + 1 + 1 = 2, sd² = 2 / 2 = 1; the unscored row counts nowhere
    a, b = 0.5**0.5 + 1e-4, 1 + 1e-4
    expected = [0, 1 / a, -0.5 / a, -0.5 / a, 0, 1 / b, 0, -1 / b]
    assert list(trainer._logs["advantages"]) == pytest.approx(expected, abs=1e-6)
    (log,) = (row for row in trainer.state.log_history if "reward" in row)
    assert log["reward"] == pytest.approx(7 / 7)  # 1 + 2 + .5 + .5 + 1 + 2 + 0 over the seven scored
    assert log["frac_reward_zero_std"] == 0
    (table,) = (pandas.read_parquet(path) for path in (tmp_path / "run/completions").glob("*.parquet"))
    assert table["advantage"].tolist() == pytest.approx(expected, abs=1e-6)


GOOD, BAD, BARE = "<think>a</think><answer>{}</answer>", "<answer>{}</answer> so", "{}"


def test_reward_components_are_logged_whatever_passes_the_gate(build, tmp_path):
    """Row by row: grounding right, right without the format; VQA wrong in format, right in format."""
    box = "(0,0),(500,500)"  # per mille of 224: the truth, 0,0,112,112
    trainer = build([rewards.resolve("gated")], cls=Scripted)
    trainer.script = [GOOD.format(box), BAD.format(box), GOOD.format("no"), GOOD.format("yes")]
    order = [row["task"] for row in next(iter(trainer.get_train_dataloader()))]
    if order[0] == "vqa":
        trainer.script = trainer.script[2:] + trainer.script[:2]
    trainer.train()
    (log,) = (row for row in trainer.state.log_history if "reward" in row)
    expected = {"format": 0.75, "grounding": 1.0, "vqa": 0.5, "grounding_count": 2, "vqa_count": 2, "choice_count": 0}
    assert {name: log[f"reward_raw/{name}"] for name in expected} == expected
    assert log["reward"] == pytest.approx((1.0 + 0.0 + 0.3 + 1.0) / 4)
    (table,) = (pandas.read_parquet(path) for path in (tmp_path / "run/completions").glob("*.parquet"))
    raw = {row["completion"]: (row["reward_raw/format"], row["reward_raw/task"]) for _, row in table.iterrows()}
    assert raw == {
        GOOD.format(box): (1, 1),
        BAD.format(box): (0, 1),
        GOOD.format("no"): (1, 0),
        GOOD.format("yes"): (1, 1),
    }
    assert set(table["task"]) == {"grounding", "vqa"} and "<image>" in table["prompt"][0]
    assert sorted(set(table["image_file"])) == [str(tmp_path / "0.png"), str(tmp_path / "1.png")]


@pytest.mark.parametrize("shown", [False, True])
def test_what_is_gathered_holds_no_picture_larger_than_a_table_shows(build, tmp_path, monkeypatch, shown):
    """Two pictures of 900² are 4.9 MB. Without a tracker none is sent; with one, a picture of 256² for each prompt."""
    from trl.trainer import grpo_trainer

    import rl.table

    sent, kept = [], []
    for module in (grpo_trainer, rl.table):
        monkeypatch.setattr(module, "gather_object", lambda found: sent.append(pickle.dumps(found)) or found)

    def keeps(prompts, completions, **_):
        kept.append((prompts, completions))
        return [float(n % 2) for n in range(len(completions))]

    trainer = build([keeps], rows=dataset(tmp_path, side=900))
    trainer.args.report_to = ["wandb"] if shown else []  # no run is open: TRL looks, and logs nothing
    trainer.train()
    pictures = [[one.size for one in row] for row in trainer._logs["images"]]
    assert pictures == ([[(256, 256)]] * 4 if shown else [])
    assert sum(map(len, sent)) < (200_000 if shown else 3000)
    assert all("<image>" in text for text in trainer._logs["prompt"])
    ((prompts, completions),) = kept  # what a reward has been given does not change under it
    assert [part["type"] for part in prompts[0][1]["content"]] == ["image", "text"]
    assert [type(one) for one in completions] == [list] * 4


def test_nothing_passes_the_gate_and_the_names_are_the_same(build):
    trainer = build([rewards.resolve("gated")], cls=Scripted)
    trainer.script = [BARE.format("yes")] * 4
    trainer.train()
    (log,) = (row for row in trainer.state.log_history if "reward" in row)
    assert log["reward"] == log["reward_raw/format"] == log["reward_raw/grounding"] == log["reward_raw/vqa"] == 0
    assert log["frac_reward_zero_std"] == 1


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
def test_loss_variants_are_reachable_from_the_recipe(build, loss_type):
    """One long and one short completion in each group, rewards 0 and 1, so that the losses differ in their weights."""
    trainer = build(cls=Scripted, loss_type=loss_type, scale_rewards="none", learning_rate=0.0, beta=0.0)
    assert trainer.loss_type == loss_type
    trainer.script = ["a b c d e f g h", "a"] * 2
    long, short = (len(trainer._tokenizer(f"{text}<|im_end|>").input_ids) for text in trainer.script[:2])
    trainer.train()
    # the ratio is 1 at the first step, so a token's loss is minus its advantage: +1/2 for the long, -1/2 for the short
    total = (long - short) / 2 * 2
    expected = {"grpo": 0.0, "dr_grpo": total / (4 * 6), "bnpo": total / (2 * (long + short))}
    expected["dapo"] = expected["bnpo"]
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected[loss_type], abs=1e-5)
