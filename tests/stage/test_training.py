"""From a recipe to TRL's arguments: precision, what a recipe may not say twice, DeepSpeed."""

import os
from pathlib import Path

import pytest
import torch
import trl
import yaml

from rewards.score.training.recipe import PreferenceData, PreferenceSource, ScoreRecipe
from rl.recipe import GRPORecipe
from rl.sampling import check_room
from samples.sections import DataSection, SourceSection
from sft.recipe import SFTRecipe
from stage import cli
from stage.parallel import sharding
from stage.recipe import config
from stage.recipe.arguments import OWNED
from stage.recipe.sections import ShardingSection, WatchdogSection
from stage.recipe.together import doubts
from stage.tracking.section import TrackingSection
from stage.trainer.arguments import arguments, check_masters, load_dtype
from vlm.common.errors import RecipeError
from vlm.sections import ImageSection, LoraSection, ModelSection

pytestmark = pytest.mark.xdist_group("grpo")
ROOT = Path(__file__).parents[2]


def recipe(cls=GRPORecipe, dtype="float32", **fields):
    data = DataSection(train=[SourceSection(path="nowhere.jsonl")])
    if cls is ScoreRecipe:
        data = PreferenceData(train=[PreferenceSource(path="nowhere.jsonl")])
    model = ModelSection(path="nowhere", dtype=dtype)
    return cls(model=model, output="runs/some run/", **{"seed": 11, "data": data} | fields)


@pytest.mark.parametrize(
    ("zero", "lora", "loaded"),
    [
        (0, None, "float32"),  # float32 masters, autocast
        (0, LoraSection(), "bfloat16"),  # the frozen base needs none
        (2, None, "bfloat16"),  # DeepSpeed keeps them
        (3, None, "bfloat16"),
        (3, LoraSection(), "bfloat16"),
    ],
)
def test_who_keeps_the_float32_weights(zero, lora, loaded):
    assert load_dtype(ModelSection(path="m", dtype="bfloat16", lora=lora), ShardingSection(zero=zero)) == loaded
    assert load_dtype(ModelSection(path="m", dtype="float32", lora=lora), ShardingSection(zero=zero)) == "float32"


def test_flash_attention_does_not_meet_float32_masters():
    flash = ModelSection(path="m", dtype="bfloat16", attention="flash_attention_2")
    with pytest.raises(RecipeError, match="kept in float32.*sharding.zero=1"):
        check_masters(flash, ShardingSection(zero=0))
    check_masters(flash, ShardingSection(zero=2))
    check_masters(flash.model_copy(update={"lora": LoraSection()}), ShardingSection(zero=0))
    check_masters(flash.model_copy(update={"attention": "auto"}), ShardingSection(zero=0))


@pytest.mark.parametrize("cls", [GRPORecipe, SFTRecipe])
def test_the_recipes_sections_reach_the_arguments(cls):
    kind = trl.GRPOConfig if cls is GRPORecipe else trl.SFTConfig
    made = arguments(kind, recipe(cls, training={"learning_rate": 3e-6, "max_steps": 5}))
    assert (made.learning_rate, made.max_steps, made.seed, made.data_seed) == (3e-6, 5, 11, 11)
    assert (made.output_dir, made.run_name, made.report_to) == ("runs/some run/", "some run", [])
    assert (made.bf16, made.fp16, made.deepspeed, made.remove_unused_columns) == (False, False, None, False)
    assert (made.logging_steps, made.save_strategy) == (1, "no")


def test_dtype_means_computation(monkeypatch):
    """Asked for on a GPU; here only what is handed over can be seen."""
    handed = {}

    class Config(trl.GRPOConfig):
        def __post_init__(self):
            handed.update(vars(self))

    for dtype, bf16, fp16 in (("bfloat16", True, False), ("float16", False, True), ("float32", False, False)):
        arguments(Config, recipe(dtype=dtype))
        assert (handed["bf16"], handed["fp16"]) == (bf16, fp16)
    forced = arguments(
        Config, recipe(training={"max_completion_length": 3, "logging_steps": 7}), loss_type="bnpo", log_completions=1
    )
    assert (forced.loss_type, forced.log_completions, forced.logging_steps) == ("bnpo", 1, 7)


def test_what_is_drawn_before_the_trainer_follows_the_recipe_s_seed():
    """Adapters are; torch alone begins elsewhere in each process."""
    drawn = []
    for seed in (5, 5, 6):
        arguments(trl.SFTConfig, recipe(SFTRecipe, seed=seed))
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    torch.manual_seed(5)
    assert drawn[0] == torch.rand(3).tolist()


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("offload", [False, True])
def test_the_zero_stage_becomes_deepspeeds_dict(zero, offload, monkeypatch):
    """Whatever the training arguments also say is "auto", so that it stands in one place."""
    monkeypatch.setattr("stage.parallel.sharding.RENDEZVOUS", ())  # as under a launcher
    handed = {}

    class Config(trl.GRPOConfig):
        def __post_init__(self):
            handed.update(vars(self))

    arguments(Config, recipe(sharding=ShardingSection(zero=zero, offload=offload)))
    given = handed["deepspeed"]
    assert {key for key, value in given.items() if value == "auto"} == {
        "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    }  # fmt: skip
    stage = given["zero_optimization"]
    assert stage["stage"] == zero
    named = sharding.buckets(zero, 3584)  # what is planned; transformers fills in by the model's hidden size
    assert named.keys() == {key for key in stage if "bucket" in key or key.startswith(("stage3_max", "stage3_p"))}
    assert all(stage[key] in ("auto", value) for key, value in named.items())
    assert stage.get("stage3_gather_16bit_weights_on_model_save") == (True if zero == 3 else None)
    assert [key for key in stage if key.startswith("offload")] == (
        ["offload_optimizer", *(["offload_param"] if zero == 3 else [])] if offload else []
    )


def test_a_launch_that_says_otherwise_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(RecipeError, match=r"sharding.zero is 2 .* ZeRO stage 3; write sharding.zero=3"):
        arguments(trl.GRPOConfig, recipe(sharding=ShardingSection(zero=2)))


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_launch_by_accelerates_own_file(zero, monkeypatch):
    """recipes/accelerate/zero*.yaml: accelerate refuses each of its fields beside a recipe's configuration, unless they
    are known to agree. What another file says otherwise is refused with both."""
    from accelerate import DeepSpeedPlugin

    said = yaml.safe_load((ROOT / f"recipes/accelerate/zero{zero}.yaml").read_text())
    fields = ",".join([*said["deepspeed_config"], "mixed_precision"])  # as accelerate.commands.launch hands them on
    environment = {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": str(zero), "CONFIG_DS_FIELDS": fields}
    environment |= {"MIXED_PRECISION": said["mixed_precision"]}
    for name, value in environment.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    for name in sharding.RENDEZVOUS:
        monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match="will be ignored"):
        DeepSpeedPlugin._deepspeed_config_checks(None)
    wanted = {"dtype": "bfloat16", "sharding": ShardingSection(zero=zero)}
    sharding.check_launch(recipe(**wanted))
    DeepSpeedPlugin._deepspeed_config_checks(None)
    with pytest.raises(RecipeError, match=r"mixed_precision: bf16, and the recipe has .*model\.dtype=float32"):
        sharding.check_launch(recipe(**{**wanted, "dtype": "float32"}))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    with pytest.raises(RecipeError, match=r"offload_optimizer_device: cpu, and the recipe has sharding\.offload=false"):
        sharding.check_launch(recipe(**wanted))
    sharding.check_launch(recipe(**{**wanted, "sharding": ShardingSection(zero=zero, offload=True)}))
    monkeypatch.setenv("ACCELERATE_CONFIG_DS_FIELDS", f"{fields},gradient_clipping")
    sharding.check_launch(recipe(**{**wanted, "sharding": ShardingSection(zero=zero, offload=True)}))
    with pytest.raises(ValueError, match="will be ignored"):  # nobody has compared it
        DeepSpeedPlugin._deepspeed_config_checks(None)


def test_zero_without_a_launcher_is_refused(monkeypatch):
    """DeepSpeed would ask MPI, and end in an import of mpi4py. Under torchrun one process alone does."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    wanted = recipe(sharding=ShardingSection(zero=3))
    with pytest.raises(RecipeError, match=r"sharding.zero is 3.* has set MASTER_PORT\. .*nproc_per_node 1 launch/grpo"):
        sharding.check_launch(wanted)
    sharding.check_launch(recipe())
    monkeypatch.setenv("MASTER_PORT", "29500")
    sharding.check_launch(wanted)


@pytest.mark.parametrize("cls", [GRPORecipe, SFTRecipe, ScoreRecipe])
def test_one_process_with_several_gpus_is_refused(cls, monkeypatch, tmp_path):
    """transformers would train score models by nn.DataParallel; TRL refuses it, after the weights are loaded."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    wanted = recipe(cls)
    told = rf"sees 2 GPUs.*--num_processes 2 launch/{wanted.stage}.py .*CUDA_VISIBLE_DEVICES=0 python launch/"
    with pytest.raises(RecipeError, match=told):
        cli.check_machine(wanted)  # before data are read
    with pytest.raises(RecipeError, match=told):
        arguments(trl.GRPOConfig, wanted)
    cli.check_machine(recipe(cls, training={"use_cpu": True}))
    monkeypatch.setenv("LOCAL_RANK", "0")
    cli.check_machine(wanted)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"vllm_mode": "server"}, "training.vllm_mode without use_vllm: true has no effect"),
        ({"use_vllm": True, "top_k": 50}, "training.top_k = 50: vLLM's log-probabilities are of what is left"),
        ({"use_vllm": True, "generation_kwargs": {"min_tokens": 5}}, "training.generation_kwargs: min_tokens: vLLM's"),
        ({"generation_kwargs": {"stop": ["."]}}, "training.generation_kwargs: stop: a completion that ends there"),
        ({"use_vllm": True, "top_k": 50, "vllm_importance_sampling_correction": False}, None),
        ({"use_vllm": True, "top_k": 0, "top_p": 1.0}, None),
        ({"top_k": 50}, None),
    ],
    ids=str,
)
def test_sampling_that_is_probably_not_meant_is_told_of(training, words):
    found = [*doubts(recipe(GRPORecipe, training=training))]
    assert [line.startswith(words) for line in found] == [True] * (words is not None)


def test_a_context_too_short_for_the_data_is_told_of_in_the_plan(capsys):
    """Pictures of 56 × 56 pixels are 4 tokens; 100 + 50 of text and completion, and two pictures' 8."""
    images = ImageSection(min_pixels=3136, max_pixels=3136)

    def check(length, **more):
        training = {"use_vllm": True, "max_completion_length": 50, "vllm_max_model_length": length, **more}
        check_room(recipe(GRPORecipe, images=images, training=training), 100, 2)
        return capsys.readouterr().err

    assert not check(158) and not check(None) and not check(149, use_vllm=False)
    assert "have 150 tokens, with pictures at most 158" in check(157)
    with pytest.raises(RecipeError, match="vllm_max_model_length = 149: .* have 150 tokens; write 158"):
        check(149)


def test_a_watchdog_that_speaks_too_late_is_told_of(capsys, log_levels):
    """NCCL ends a waiting process at ddp_timeout, by SIGABRT: what is said of it is said before."""
    assert not [*doubts(recipe())] and recipe().argument("ddp_timeout") > 60 * recipe().watchdog.minutes
    for section, seconds, advice in (
        ({"minutes": 90}, 3600, "training.ddp_timeout=10800, or watchdog.minutes=30"),
        ({"minutes": 30}, 1800, "training.ddp_timeout=3600, or watchdog.minutes=15"),
    ):
        wanted = recipe(watchdog=WatchdogSection(**section), training={"ddp_timeout": seconds})
        assert [*doubts(wanted)][0].endswith(f"write {advice}")
    assert not [*doubts(recipe(watchdog=None, training={"ddp_timeout": 60}))]
    for more in (["--dry-run"], []):  # in a run's first lines, too
        argv = [
            str(ROOT / "recipes/r1_no_score.yaml"),
            "watchdog.minutes=90",
            "sharding.zero=0",
            "model.attention=sdpa",
            *more,
        ]
        assert cli.launch(GRPORecipe, lambda recipe: None, lambda recipe: None, argv) == 0
        assert "note: training.ddp_timeout is 3600 s and watchdog.minutes 90: NCCL ends" in capsys.readouterr().err


def test_what_trl_refuses_is_a_recipe_error_with_its_reason():
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    source = SourceSection(path="nowhere.jsonl")
    data = DataSection(train=[source], eval=[source])
    with pytest.raises(RecipeError, match="training: .*round multiple of the evaluation steps"):
        arguments(trl.GRPOConfig, recipe(training=best | {"eval_steps": 3, "save_steps": 4}, data=data))
    assert (
        arguments(trl.GRPOConfig, recipe(training=best | {"eval_steps": 3, "save_steps": 6}, data=data)).save_steps == 6
    )


@pytest.mark.parametrize("key", sorted(OWNED))
def test_keys_that_a_section_owns_are_refused_under_training(key):
    stage = ROOT / "recipes/demo/grpo.yaml"
    with pytest.raises(RecipeError) as caught:
        config.load(stage, GRPORecipe, [f"training.{key}=1"])
    assert f"training.{key}" in str(caught.value) and OWNED[key].split(" ")[0] in str(caught.value)


def test_stages_own_their_own_keys_too():
    with pytest.raises(RecipeError, match="reward_weights.*rewards"):
        config.load(ROOT / "recipes/demo/grpo.yaml", GRPORecipe, ["training.reward_weights=[1]"])
    with pytest.raises(RecipeError, match=r"`training.assistant_only_loss` is set by Nadir; write nothing \(it is"):
        config.load(ROOT / "recipes/demo/sft.yaml", SFTRecipe, ["training.assistant_only_loss=false"])


def test_wandb_is_told_only_when_asked(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    tracking = TrackingSection(project="p", group="g", tags=["a", "b"], axes={"seed": 3}, mode="offline")
    made = recipe(tracking=tracking)
    arguments(trl.GRPOConfig, made)
    assert not [name for name in os.environ if name.startswith("WANDB_")]
    made.tracking.report_to, made.tracking.name = ["wandb"], "named"
    told_trl = arguments(trl.GRPOConfig, made)
    assert (told_trl.run_name, told_trl.project) == ("named", "p")
    told = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    for name in told:
        del os.environ[name]  # not by monkeypatch, which would put it back
    assert told == {
        "WANDB_MODE": "offline",
        "WANDB_DIR": "runs/some run/",
        "WANDB_DATA_DIR": "runs/some run/wandb",
        "WANDB_PROJECT": "p",
        "WANDB_RUN_GROUP": "g",
        "WANDB_TAGS": "a,b,seed:3",
        "WANDB_JOB_TYPE": "grpo",
    }
